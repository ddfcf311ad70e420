"""plot losses and online evaluations of runs in the terminal"""

import argparse

from star_catalog.files import user_path
from star_catalog.printing import printable


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("runs", nargs="+", type=user_path, help="folders of runs, finished or running")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...reports.curves import text

    for folder in arguments.runs:
        print(*([printable(str(folder))] if len(arguments.runs) > 1 else []), *text(folder), sep="\n")
