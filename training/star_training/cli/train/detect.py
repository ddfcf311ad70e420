"""train and test a detector on a backbone"""

import argparse
import dataclasses
from pathlib import Path

from ...detection import recipes
from ...models import LEAVES
from ...settings import registry
from ...settings.base import override

GO_ON = "go on with --resume"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = f"recipes:\n{registry.listed(recipes.known())}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("model", help=LEAVES)
    add("--recipe", default="coco256", help="name of a recipe (default: %(default)s)")
    add("--data", help="images with boxes: *.parquet, a VOC folder, a VOCdevkit, or a COCO folder")
    add("--out", type=Path, required=True, help="the run's folder")
    add(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="e.g. head=c4, data.test=test2017, precision=bf16",
    )
    add("--resume", action="store_true", help="continue from the newest intact checkpoint")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    recipe = recipes.find(arguments.recipe, arguments.model)  # first, because the other imports take seconds

    from ...detection.run import DetectionRun

    if arguments.data:
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=arguments.data))
    recipe = override(recipe, arguments.set)
    DetectionRun(recipe, arguments.out, resume=arguments.resume).train()
