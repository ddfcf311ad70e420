"""pretrain on spirographs for two minutes, export the model, load it, draw a figure"""

import argparse
from pathlib import Path

from star_catalog.files import user_path


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--out", type=user_path, default="star-zoo-quickstart", help="folder (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...quickstart import quickstart

    quickstart(arguments.out)


def go_on(arguments: argparse.Namespace, words: list[str], folder: Path | None) -> list[str]:
    """Returns the words of the command that continues a stopped one: the same."""
    return words
