"""export a model to a file for ONNX Runtime, torch.export or TorchScript"""

import argparse

from star_catalog.files import user_path
from star_catalog.printing import printable

from ...exporting import FORMATS
from ...models import LEAVES, WRAPPERS


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("model", help=f"{LEAVES}, {WRAPPERS} (not averaged, which draws views)")
    add("--to", required=True, choices=FORMATS, help="format of the file; torch deprecates torchscript")
    add("--out", required=True, type=user_path, help="the file to write, e.g. model.onnx")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...exporting.export import export

    print(printable(str(export(arguments.model, arguments.to, arguments.out))))
