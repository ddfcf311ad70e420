"""pretrain a backbone with a recipe"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog.objectives import check

from ... import recipes
from ...settings import registry
from ...settings.base import override
from ...settings.common import PRECISION_HELP

if TYPE_CHECKING:
    from ...pretraining.recipe import Recipe

GO_ON = "go on with --resume"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = f"recipes:\n{registry.listed(recipes.known())}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("recipe", help="name of a recipe")
    add(
        "--objective",
        help="another objective, e.g. star, star_ss, equimod, simclr, my_package.my_objective",
    )
    add(
        "--data", help="images: a folder, *.parquet, *.tar, torchvision:NAME, hf:NAME, stream:SHARDS_OR_URL, spirograph"
    )
    add("--out", type=Path, help="the run's folder (default: runs/RECIPE-OBJECTIVE)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help=f"e.g. optimizer.lr=0.06; {PRECISION_HELP}")
    add("--resume", action="store_true", help="continue from the newest intact checkpoint")
    add("--init-from", metavar="MODEL_OR_RUN", help="a run, a saved folder, timm:NAME, a zoo tag or hf-hub:ORG/NAME")
    add("--max-bad", type=float, help="share of images that may fail to decode (default: 0.01)")
    add("--tracker", help="tensorboard, wandb or another tracker that Accelerate supports")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    recipe = recipe_of(arguments)  # first, because the other imports take seconds

    from ...pretraining.run import Run
    from ...publishing import card

    out = arguments.out or Path("runs") / f"{recipe.name}-{recipe.objective}"
    run = Run(recipe, out, resume=arguments.resume, tracker=arguments.tracker)
    run.train()
    if run.main:
        card.write_after_training(out / "export", changed=not run.finished)
        print(f'exported to {out / "export"}: timm.create_model("local-dir:{out / "export"}", pretrained=True)')


def recipe_of(arguments: argparse.Namespace) -> "Recipe":
    """Returns the named recipe with the changes of the command line."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as python -m does, because it may hold the user's own objective
    if arguments.objective:
        check(arguments.objective)
    recipe = recipes.find(arguments.recipe)
    if arguments.objective:
        recipe = recipe.with_objective(arguments.objective)
    changes = {"source": arguments.data, "max_bad": arguments.max_bad}
    data = dataclasses.replace(recipe.data, **{k: v for k, v in changes.items() if v is not None})
    recipe = dataclasses.replace(recipe, data=data, init_from=arguments.init_from or recipe.init_from)
    return override(recipe, arguments.set)
