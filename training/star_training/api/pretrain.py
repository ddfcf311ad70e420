"""`pretrain`: trains a backbone with a recipe."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog.objectives import check

from .. import recipes
from ..settings.base import Changes, changed
from .arguments import Model, Place
from .trained import Trained, continuing

if TYPE_CHECKING:
    from ..pretraining.recipe import Recipe


def pretrain(
    recipe: str = "folder",
    *,
    data: Place | None = None,
    out: Place | None = None,
    objective: str | None = None,
    backbone: str | None = None,
    epochs: int | None = None,
    settings: Changes = (),
    init_from: Model | None = None,
    max_bad: float | None = None,
    resume: bool = False,
    tracker: str | None = None,
) -> Trained:
    """Pretrains a backbone, exports it with its heads and its card, and returns the finished run.

    Args:
        recipe: name of a recipe; `star-zoo pretrain --help` lists them.
        data: images, as in `--data`: a folder, a .parquet file, "torchvision:NAME", ... None: the recipe's.
        out: the run's folder; None: runs/RECIPE-OBJECTIVE.
        objective: another objective than the recipe's, e.g. "simclr".
        backbone: the name of any timm model.
        epochs: passes over the images.
        settings: any other settings by path, as in `--set`, e.g. {"optimizer.lr": 0.06, "policy": "dorsal"}.
        init_from: a model whose weights to start from.
        max_bad: share of images that may fail to decode; None: the recipe's.
        resume: continue from the newest intact checkpoint in `out`; a finished run is returned unchanged.
        tracker: "tensorboard", "wandb" or another tracker that Accelerate supports.

    Raises ValueError or OSError for wrong arguments, data or files, Diverged for a loss that is not finite, and Stopped
    after SIGINT or SIGTERM (in a notebook: interrupt), once a checkpoint is written.
    """
    made = made_recipe(recipe, data, objective, backbone, epochs, settings, init_from, max_bad)  # imports take seconds

    from ..pretraining.run import Run
    from ..publishing import card

    folder = Path(out).expanduser() if out else Path("runs") / f"{made.name}-{made.objective}"
    with continuing("repeat the call of pretrain with resume=True to go on"):
        run = Run(made, folder, resume=resume, tracker=tracker)
        results = run.train()
    if run.main:
        card.write_after_training(run.out / "export", changed=not run.finished)
    last = results["online"][-1] if results.get("online") else {}
    return Trained(folder, {name: value for name, value in last.items() if name not in ("step", "epoch")})


def made_recipe(
    recipe: str,
    data: Place | None = None,
    objective: str | None = None,
    backbone: str | None = None,
    epochs: int | None = None,
    settings: Changes = (),
    init_from: Model | None = None,
    max_bad: float | None = None,
) -> "Recipe":
    """Returns the named recipe with the given changes. Raises ValueError for a wrong one."""
    if objective:
        check(objective)
    made: Recipe = recipes.find(recipe)
    if objective:
        made = made.with_objective(objective)
    given = {
        "data.source": None if data is None else os.fspath(data),
        "data.max_bad": max_bad,
        "backbone": backbone,
        "epochs": epochs,
        "init_from": None if init_from is None else os.fspath(init_from),
    }
    made = changed(made, {path: value for path, value in given.items() if value is not None})
    return changed(made, settings)
