"""fine-tune a whole model on labelled images"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...models import LEAVES
from ...settings.common import PRECISION_HELP

if TYPE_CHECKING:
    from ...finetuning.config import FineTune

GO_ON = "go on with --resume"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("model", help=LEAVES)
    add("--data", required=True, help="labelled images with train and test splits")
    add("--fraction", type=float, help="share of each class's training labels, e.g. 0.01 or 0.1 (default: all)")
    add("--out", type=Path, help="the folder to write (default: runs/finetune-MODEL-DATA)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help=f"e.g. epochs=10, ema=0.999; {PRECISION_HELP}")
    add("--resume", action="store_true", help="continue from the newest intact checkpoint")
    add("--tracker", help="tensorboard, wandb or another tracker that Accelerate supports")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...finetuning.run import FineTuning
    from ...finetuning.setup import default_out

    settings = settings_of(arguments)
    out = arguments.out or default_out(settings)
    tuning = FineTuning(settings, out, resume=arguments.resume, tracker=arguments.tracker)
    tuning.train()
    if tuning.main:
        print(f'exported to {out / "export"}: timm.create_model("local-dir:{out / "export"}", pretrained=True)')


def settings_of(arguments: argparse.Namespace) -> "FineTune":
    """Returns the default settings with the changes of the command line."""
    from ...finetuning.config import FineTune, LabelledData
    from ...settings.base import override

    data = LabelledData(source=arguments.data, fraction=1.0 if arguments.fraction is None else arguments.fraction)
    return override(FineTune(model=arguments.model, data=data), arguments.set)
