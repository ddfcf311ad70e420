"""compare two models on the same test images"""

import argparse
from typing import TYPE_CHECKING

from star_catalog.files import user_path

from ...api.compare import compare
from ...models import LEAVES, WRAPPERS
from ...settings.common import EVALUATION_WORKERS, MAX_BAD

if TYPE_CHECKING:
    from ...api.comparison import Comparison


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("first", help=f"{LEAVES}, pixels, {WRAPPERS}")
    add("second", help="another model; differences are first minus second")
    add("--data", nargs="+", help="data sets with train and test splits (default: all in $STAR_ZOO_DATA)")
    add("--protocol", nargs="+", help="protocols that classify test images one by one (default: those of eval all)")
    add(
        "--max-bad",
        type=float,
        default=MAX_BAD,
        help="share of images that may fail to decode (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of random splits (default: %(default)s)")
    add("--workers", type=int, default=EVALUATION_WORKERS, help="processes that load images (default: %(default)s)")
    add("--out", type=user_path, help="results.json to add to (default: the first model's own, if it is a folder)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    same = {name: getattr(arguments, name) for name in ("data", "protocol", "max_bad", "seed", "workers", "out")}
    compare(arguments.first, arguments.second, **same, each=_print)


def _print(comparison: "Comparison") -> None:
    from ...reports.tables import markdown

    print(markdown(comparison.table), end="", flush=True)
