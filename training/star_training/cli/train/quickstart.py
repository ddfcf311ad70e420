"""pretrain on spirographs for two minutes, export, load, draw"""

import argparse
from pathlib import Path

GO_ON = "run it again to go on"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("star-zoo-quickstart"), help="folder to write (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from ...quickstart import quickstart

    quickstart(arguments.out)
