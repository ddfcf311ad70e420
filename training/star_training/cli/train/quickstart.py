"""pretrain on spirographs for two minutes, export the model, load it, draw a figure"""

import argparse
from pathlib import Path

GO_ON = "run it again to go on"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("star-zoo-quickstart"), help="folder (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...quickstart import quickstart

    quickstart(arguments.out)
