"""pretrain a backbone with a recipe"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import recipes
from ...api.pretrain import made_recipe, pretrain
from ...settings import registry
from ...settings.base import parse_changes
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
    _find_own_modules()
    run = pretrain(**_given(arguments), out=arguments.out, resume=arguments.resume, tracker=arguments.tracker)

    from accelerate import PartialState

    if PartialState().is_main_process:
        print(run)


def recipe_of(arguments: argparse.Namespace) -> "Recipe":
    """Returns the named recipe with the changes of the command line."""
    _find_own_modules()
    return made_recipe(**_given(arguments))


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    same = {name: getattr(arguments, name) for name in ("recipe", "data", "objective", "init_from", "max_bad")}
    return same | {"settings": parse_changes(arguments.set)}


def _find_own_modules() -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as python -m does, because it may hold the user's own objective
