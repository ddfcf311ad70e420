"""The quickstart: pretrain on spirographs, see that it learned, export, load with timm, draw a picture."""

import time
from pathlib import Path

import timm
import torch
from torch import Tensor

from star_zoo import Objective, load_objective

from . import recipes
from .data import Source
from .data.views import MultiViewDataset, stack
from .engine.logging import read
from .pretraining.run import Run
from .publishing import card
from .reports import run_figure

_PICTURED = 4  # images whose views are drawn


def quickstart(out: Path) -> None:
    """Runs the recipe `spirograph_tiny` into a folder, or goes on there, and prints what came of it."""
    start = time.perf_counter()
    recipe = recipes.spirograph_tiny()
    print(f"pretraining {recipe.backbone} with {recipe.objective} on spirographs, {recipe.epochs} epochs ...")
    run = Run(recipe, out, resume=(out / "recipe.json").exists())
    results = run.train()
    export = out / "export"
    card.write_after_training(export, changed=not run.finished)
    entries = read(out / "log.jsonl")
    losses = [e["loss"] for e in entries if "loss" in e]
    untrained, trained = (e["r2"] for e in results["online"])

    timm.create_model(f"local-dir:{export}", pretrained=True)  # that it loads is what is promised below
    objective = load_objective(export)
    picture = out / "learned.png"
    shown = pictured_views(run.source, objective)
    weights = torch.tensor([e["router"] for e in entries if "router" in e][-1])
    run_figure.draw(picture, shown, objective.policy, entries, weights)

    print(f"\nloss {losses[0]:.2f} -> {losses[-1]:.2f}")
    print(f"R2 of the four true numbers from frozen features: untrained {untrained:.3f} -> trained {trained:.3f}")
    print(f"figure: {picture}    time: {time.perf_counter() - start:.0f} s\n\nNow in Python:\n")
    print("import timm")
    print(f'model = timm.create_model("local-dir:{export}", pretrained=True)')
    print("features = model.eval()(images)  # (B, 3, 32, 32) -> (B, 512)")


def pictured_views(source: Source, objective: Objective) -> Tensor:
    """The views of the first few images in the first epoch, augmented: (images, V, 3, S, S) float, normalised."""
    dataset = MultiViewDataset(source, objective.policy, objective.plan, seed=0)
    batch = stack([dataset[0, i] for i in range(_PICTURED)]).batch()
    applied = [objective.policy.apply(*view) for view in zip(batch.views, batch.params, strict=True)]
    return torch.stack(applied, 1)
