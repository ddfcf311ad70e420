"""fine-tune a whole model on labelled images"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...api.finetune import finetune, made_settings
from ...models import LEAVES
from ...settings.base import parse_changes
from ...settings.common import PRECISION_HELP

if TYPE_CHECKING:
    from ...finetuning.config import FineTune

GO_ON = "go on with --resume"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("model", help=LEAVES)
    add("--data", required=True, help="labelled images with train and test splits")
    add(
        "--fraction",
        type=float,
        default=1.0,
        help="share of each class's training labels, e.g. 0.01 or 0.1 (default: all)",
    )
    add("--out", type=Path, help="the folder to write (default: runs/finetune-MODEL-DATA)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help=f"e.g. epochs=10, ema=0.999; {PRECISION_HELP}")
    add("--resume", action="store_true", help="continue from the newest intact checkpoint")
    add("--tracker", help="tensorboard, wandb or another tracker that Accelerate supports")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    tuned = finetune(**_given(arguments), out=arguments.out, resume=arguments.resume, tracker=arguments.tracker)

    from accelerate import PartialState

    if PartialState().is_main_process:
        print(tuned)


def settings_of(arguments: argparse.Namespace) -> "FineTune":
    """Returns the default settings with the changes of the command line."""
    return made_settings(**_given(arguments))


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    same = {name: getattr(arguments, name) for name in ("model", "data", "fraction")}
    return same | {"settings": parse_changes(arguments.set)}
