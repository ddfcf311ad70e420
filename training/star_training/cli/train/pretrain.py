"""pretrain a backbone with a recipe"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_catalog.files import user_path

from ... import recipes
from ...api.pretrain import planned, pretrain
from ...settings import registry
from ...settings.base import parse_changes
from ...settings.common import MAX_BAD, PRECISION_HELP
from . import arguments as shared

if TYPE_CHECKING:
    from ...pretraining.recipe import Recipe


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = f"recipes:\n{registry.listed(recipes.known())}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("recipe", nargs="?", help="name of a recipe, or the dotted path of a module of yours that defines one")
    add(
        "--objective",
        help="another objective, e.g. star, star_ss, equimod, simclr, my_package.my_objective",
    )
    add(
        "--data",
        help="images: a folder of images or of .npy arrays, *.parquet, *.tar, torchvision:NAME, hf:NAME, "
        "stream:SHARDS_OR_URL, spirograph",
    )
    add("--out", type=user_path, help="the run's folder (default: runs/RECIPE-OBJECTIVE)")
    shared.declare(parser, f"optimizer.lr=0.06, policy=dorsal, policy.augmentations+=Solarize; {PRECISION_HELP}")
    add("--init-from", metavar="MODEL_OR_RUN", help="a run, a saved folder, timm:NAME, a zoo tag or hf-hub:ORG/NAME")
    add("--max-bad", type=float, help=f"share of images that may fail to decode (default: {MAX_BAD})")
    add("--tracker", help="tensorboard, wandb or another tracker that Accelerate supports")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    if not arguments.recipe and not arguments.resume:
        known = ", ".join(recipes.known())
        raise ValueError(f"pass a recipe, or --resume with the folder of a run as --out; recipes: {known}")
    if arguments.show:
        _show(recipe_of(arguments))
        return
    shared.find_own_modules()
    run = pretrain(**_given(arguments), tracker=arguments.tracker)

    from accelerate import PartialState

    if PartialState().is_main_process:
        print(run)


def go_on(arguments: argparse.Namespace, words: list[str], folder: Path | None) -> list[str]:
    """Returns the words of the command that continues a stopped run."""
    tracker = ["--tracker", arguments.tracker] if arguments.tracker else []
    return ["pretrain", "--resume", "--out", str(folder), *tracker]


def recipe_of(arguments: argparse.Namespace) -> "Recipe":
    """Returns the named recipe, or that of the run to resume, with the changes of the command line."""
    shared.find_own_modules()
    return planned(**_given(arguments))[0]


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("recipe", "data", "objective", "init_from", "max_bad", "out", "resume")
    return {name: getattr(arguments, name) for name in names} | {"settings": parse_changes(arguments.set)}


def _show(recipe: "Recipe") -> None:
    """Prints all settings, those of the objective among them, and the known augmentations."""
    from star_zoo import objectives
    from star_zoo.augmentations.policy import KNOWN

    from ...settings.show import keywords_of, signature

    name = recipe.objective
    shared.show(recipe, {"objective_args": keywords_of(objectives.find(name), objectives.settings(name))})
    print('\naugmentations, for --set policy.augmentations+=NAME, -=NAME, or +={"name": NAME, ...}, with their fields:')
    for name, kind in KNOWN.items():
        print(f"  {name}: {signature(kind)}")
