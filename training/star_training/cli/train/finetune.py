"""fine-tune a whole model on labelled images"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_catalog.files import user_path

from ...api.finetune import finetune, planned
from ...models import LEAVES
from ...settings.base import parse_changes
from ...settings.common import MAX_BAD, PRECISION_HELP
from . import arguments as shared

if TYPE_CHECKING:
    from ...finetuning.config import FineTune


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("model", nargs="?", help=LEAVES)
    add("--data", help="labelled images with train and test splits")
    add("--fraction", type=float, help="share of each class's training labels, e.g. 0.01 or 0.1 (default: all)")
    add("--max-bad", type=float, help=f"share of images that may fail to decode (default: {MAX_BAD})")
    add("--out", type=user_path, help="the folder to write (default: runs/finetune-MODEL-DATA)")
    shared.declare(parser, f"epochs=10, ema=0.999; {PRECISION_HELP}")
    add("--tracker", help="tensorboard, wandb or another tracker that Accelerate supports")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    if arguments.show:
        if not arguments.resume:
            arguments.model, arguments.data = arguments.model or "MODEL", arguments.data or "DATA"
        shared.show(settings_of(arguments), {})
        return
    tuned = finetune(**_given(arguments), tracker=arguments.tracker)

    from accelerate import PartialState

    if PartialState().is_main_process:
        print(tuned)


def go_on(arguments: argparse.Namespace, words: list[str], folder: Path | None) -> list[str]:
    """Returns the words of the command that continues a stopped run."""
    tracker = ["--tracker", arguments.tracker] if arguments.tracker else []
    return ["finetune", "--resume", "--out", str(folder), *tracker]


def settings_of(arguments: argparse.Namespace) -> "FineTune":
    """Returns the default settings, or those of the run to resume, with the changes of the command line."""
    return planned(**_given(arguments))[0]


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "data", "fraction", "max_bad", "out", "resume")
    return {name: getattr(arguments, name) for name in names} | {"settings": parse_changes(arguments.set)}
