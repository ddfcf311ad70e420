"""The arguments that trainings share: `--set`, `--show`, and `--resume`, which needs no settings again."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...settings.base import Settings
    from ...settings.show import Keywords


def declare(parser: argparse.ArgumentParser, examples: str) -> None:
    """Declares --set, with examples in its help, --show and --resume."""
    add = parser.add_argument
    add("--set", action="append", default=[], metavar="PATH=VALUE", help=f"e.g. {examples}; --show lists all settings")
    add("--show", action="store_true", help="only print all settings with their values, defaults, types and meanings")
    add(
        "--resume",
        action="store_true",
        help="continue the run in --out from its newest intact checkpoint; its settings needn't be given again",
    )


def show(settings: "Settings", keywords: "Keywords") -> None:
    """Prints all settings as a table; `keywords` as in `show.rows`."""
    from ...settings import show as shown

    print(shown.table(shown.rows(settings, keywords)))


def find_own_modules() -> None:
    """Lets objectives, recipes and studies of the user's own be imported from the working folder, as `python -m` does.

    Only commands to which the user names such a module call this: what a saved model names is imported from installed
    packages and PYTHONPATH alone, because a foreign folder may lie in the working folder.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
