"""The quickstart: pretrains on spirographs, prints the gain, exports, loads with timm, draws a figure."""

import time
from pathlib import Path

import timm
import torch
from torch import Tensor

from star_catalog.printing import printable
from star_zoo import Objective, load_objective

from . import recipes
from .data import Source
from .data.views import MultiViewDataset, stack
from .engine.logging import read
from .messages import say
from .pretraining.run import Run
from .publishing import card
from .publishing.markdown import python_string
from .reports import run_figure

_PICTURED = 4  # images whose views are drawn


def quickstart(out: Path) -> None:
    """Runs the recipe `spirograph_tiny` in a folder, or resumes it there, and prints its results."""
    start = time.perf_counter()
    recipe, resumed = recipes.find("spirograph_tiny"), (out / "recipe.json").exists()
    say(f"pretraining {recipe.backbone} with {recipe.objective} on spirographs, {recipe.epochs} epochs ...")
    run = Run(recipe, out, resume=resumed)
    results = run.train()
    export = out / "export"
    card.write_after_training(out, changed=not run.finished)
    entries = read(out / "log.jsonl")
    losses = [e["loss"] for e in entries if "loss" in e]
    untrained, trained = (e["r2"] for e in results["online"])

    timm.create_model(f"local-dir:{export}", pretrained=True)  # verifies the code printed below
    objective = load_objective(export)
    picture = out / "learned.png"
    views = pictured_views(run.source, objective)
    weights = torch.tensor([e["router"] for e in entries if "router" in e][-1])
    run_figure.draw(picture, views, objective.policy, entries, weights)

    since = " since the resume" if resumed else ""
    print(f"\nloss {losses[0]:.2f} -> {losses[-1]:.2f}")
    print(f"R2 of the four true parameters from frozen features: untrained {untrained:.3f} -> trained {trained:.3f}")
    print(f"figure: {printable(str(picture))}    time{since}: {time.perf_counter() - start:.0f} s\n\nNow in Python:\n")
    print("import timm")
    print(f"model = timm.create_model({python_string(f'local-dir:{export}')}, pretrained=True)")
    print("features = model.eval()(images)  # (B, 3, 32, 32) -> (B, 512)")


def pictured_views(source: Source, objective: Objective) -> Tensor:
    """Returns the augmented views of the first images in epoch 0, (images, V, 3, S, S) float, normalised."""
    dataset = MultiViewDataset(source, objective.policy, objective.plan, seed=0)
    batch = stack([dataset[0, i] for i in range(_PICTURED)]).batch()
    applied = [objective.policy.apply(*view) for view in zip(batch.views, batch.params, strict=True)]
    return torch.stack(applied, 1)
