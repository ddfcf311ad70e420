"""train and test a detector on a backbone"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog.files import user_path

from ...api.arguments import NO_FOLDER
from ...detection import recipes
from ...models import LEAVES
from ...settings import registry
from . import arguments as shared

if TYPE_CHECKING:
    from ...detection.recipe import DetectionRecipe

_DEFAULT = "coco256"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = f"recipes:\n{registry.listed(recipes.known())}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("model", nargs="?", help=LEAVES)
    add("--recipe", help=f"name of a recipe (default: {_DEFAULT})")
    add("--data", help="images with boxes: *.parquet, a VOC folder, a VOCdevkit, or a COCO folder")
    add("--out", type=user_path, help="the run's folder")
    shared.declare(parser, "head=c4, data.test=test2017, precision=bf16")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    recipe = recipe_of(arguments)  # first, because the other imports take seconds
    if arguments.show:
        shared.show(recipe, {})
        return

    from ...detection.run import DetectionRun

    DetectionRun(recipe, arguments.out, resume=arguments.resume).train()


def go_on(arguments: argparse.Namespace, words: list[str], folder: Path | None) -> list[str]:
    """Returns the words of the command that continues a stopped run."""
    return ["detect", "--resume", "--out", str(folder)]


def recipe_of(arguments: argparse.Namespace) -> "DetectionRecipe":
    """Returns the named recipe, or that of the run to resume, with the changes of the command line."""
    if arguments.resume:
        recipe = _started(arguments)
    elif arguments.show or (arguments.model and arguments.out):
        recipe = recipes.find(arguments.recipe or _DEFAULT, arguments.model or "MODEL")
    else:
        raise ValueError("pass a model, and the folder of the new run with --out; or --resume with that of a run")

    from ...settings.base import override

    if arguments.data:
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=arguments.data))
    return override(recipe, arguments.set)


def _started(arguments: argparse.Namespace) -> "DetectionRecipe":
    """Returns the recipe of the run to resume. Raises ValueError for the name of another recipe."""
    if (out := arguments.out) is None:
        raise ValueError(NO_FOLDER)

    from ...detection.recipe import DetectionRecipe
    from ...engine.run_dir import saved_settings

    recipe = saved_settings(DetectionRecipe, out / "recipe.json")
    if arguments.recipe not in (None, recipe.name):
        raise ValueError(f"{out} holds a run of the recipe {recipe.name!r}, not {arguments.recipe!r}")
    return dataclasses.replace(recipe, model=arguments.model or recipe.model)
