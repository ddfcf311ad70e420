"""`pretrain`: trains a backbone with a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_catalog.files import user_path
from star_catalog.objectives import check
from star_catalog.printing import as_typed

from .. import recipes
from ..messages import noted
from ..settings.base import Changes, changed
from .arguments import NO_FOLDER, Model, Place, changes
from .trained import Trained, continuing

if TYPE_CHECKING:
    from ..pretraining.recipe import Recipe


@noted()
def pretrain(
    recipe: str | None = None,
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
        recipe: name of a recipe; `star-zoo pretrain --help` lists them. None: "folder", or that of a resumed run.
        data: images, as in `--data`: a folder, a .parquet file, "torchvision:NAME", ... None: the recipe's.
        out: the run's folder; None: runs/RECIPE-OBJECTIVE.
        objective: another objective than the recipe's, e.g. "simclr".
        backbone: the name of any timm model.
        epochs: passes over the images.
        settings: any other settings by path, as in `--set`, e.g. {"optimizer.lr": 0.06, "policy": "dorsal"}.
        init_from: a model whose weights to start from.
        max_bad: share of images that may fail to decode; None: the recipe's.
        resume: continue the run in `out` from its newest intact checkpoint, with its own settings, of which only
            those of `run` and the place of the same images may be given anew; a finished run is returned unchanged.
        tracker: "tensorboard", "wandb" or another tracker that Accelerate supports.

    Raises ValueError or OSError for wrong arguments, data or files, Diverged for a loss that is not finite, and Stopped
    after SIGINT or SIGTERM (in a notebook: interrupt), once a checkpoint is written.
    """
    given = {"data": data, "max_bad": max_bad, "backbone": backbone, "epochs": epochs, "init_from": init_from}
    made, folder = planned(recipe, objective, settings, out, resume, **given)  # first: the other imports take seconds

    from ..data.places import check_outside
    from ..pretraining.run import Run
    from ..publishing import card

    if not resume:
        check_outside(folder, made.data.source)
    how = "go on with star_training.pretrain(out={folder!r}, resume=True)"
    with continuing(how, folder / Run.settings_file):
        run = Run(made, folder, resume=resume, tracker=tracker)
        results = run.train()
        if run.main:
            card.write_after_training(run.out, changed=not run.finished)
    last = results["online"][-1] if results.get("online") else {}
    return Trained(folder, {name: value for name, value in last.items() if name not in ("step", "epoch")})


def planned(
    recipe: str | None = None,
    objective: str | None = None,
    settings: Changes = (),
    out: Place | None = None,
    resume: bool = False,
    **given: Any,
) -> "tuple[Recipe, Path]":
    """Returns the recipe of a run with the given changes, and the run's folder; a resumed run has its own recipe.

    `given` are the other arguments of `pretrain`. Raises ValueError for a wrong argument, and if the folder holds no
    run to resume, or one of another recipe.
    """
    if resume and not recipe and not out:
        raise ValueError(NO_FOLDER)
    if objective:
        check(objective)
    wanted = changes(settings, given)

    def change(made: "Recipe") -> "Recipe":
        made = changed(made.with_objective(objective) if objective else made, wanted)
        made.check()
        return made

    if resume and not recipe:
        return change(_saved(user_path(out or ""))), user_path(out or "")
    if resume and recipe and recipe not in recipes.known() and user_path(recipe).is_dir():
        raise ValueError(
            f"{recipe} is a folder, not a recipe; to continue its run: {as_typed('--resume', '--out', recipe)} "
            "(resume=True, out=...)"
        )
    named = change(recipes.find(recipe or "folder"))
    folder = user_path(out) if out else Path("runs") / f"{named.name}-{named.objective}"
    if not resume:
        return named, folder
    before = _saved(folder)
    if before.name != named.name:
        raise ValueError(f"{folder} holds a run of the recipe {before.name!r}, not {named.name!r}")
    return change(before), folder


def _saved(folder: Path) -> "Recipe":
    """Returns the recipe of the run in a folder."""
    from ..engine.run_dir import saved_settings
    from ..pretraining.recipe import Recipe

    return saved_settings(Recipe, folder / "recipe.json")
