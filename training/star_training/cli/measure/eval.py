"""evaluate frozen features"""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog.files import user_path

from ...api.evaluate import evaluate
from ...evaluation import protocols
from ...models import LEAVES, WRAPPERS
from ...settings.common import EVALUATION_WORKERS, MAX_BAD

if TYPE_CHECKING:
    from ...api.evaluations import Evaluations
    from ...evaluation.record import Record

_ALL = "knn, linear, few_shot, and regression for numbers as labels"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("protocol", help=f"one of {', '.join(protocols.known())}; or all: {_ALL}, in one table")
    add("model", help=f"{LEAVES}, pixels, {WRAPPERS}")
    add(
        "--data",
        nargs="+",
        help="data sets with train and test splits; for all, also a folder of them (default: all in $STAR_ZOO_DATA)",
    )
    add("--protocols", help="protocols that `all` runs instead, e.g. knn,invariance")
    add(
        "--max-bad",
        type=float,
        default=MAX_BAD,
        help="share of images that may fail to decode (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of random splits and random weights (default: %(default)s)")
    add("--workers", type=int, default=EVALUATION_WORKERS, help="processes that load images (default: %(default)s)")
    add("--out", type=user_path, help="results.json to add to (default: the model's own, if it is a folder)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    every = arguments.protocol == "all"
    if arguments.protocols and not every:
        raise ValueError(f"--protocols is for eval all; eval {arguments.protocol} runs one protocol")
    protocol = arguments.protocol
    if arguments.protocols:
        protocol = [name.strip() for name in arguments.protocols.split(",")]
    same = {name: getattr(arguments, name) for name in ("data", "max_bad", "seed", "workers", "out")}
    shown: list[Record] = []
    try:
        found = evaluate(arguments.model, protocol, **same, each=functools.partial(_show, shown))
    except ValueError as error:
        if part := getattr(error, "found", None):
            _print(part, shown, every)
        raise
    _print(found, shown, every)


def go_on(arguments: argparse.Namespace, words: list[str], folder: Path | None) -> list[str]:
    """Returns the words of the command that continues a stopped one: the same."""
    return words


def _show(shown: "list[Record]", record: "Record") -> None:
    shown.append(record)
    print(record, flush=True)


def _print(found: "Evaluations", shown: "list[Record]", every: bool) -> None:
    """Prints a table of several evaluations, the names under which they are recorded, and why others are missing."""
    from star_catalog.printing import printable

    from ...reports.tables import markdown

    for before, after in zip(shown, found.records, strict=True):
        if before.data != after.data:
            why = f"{found.file} holds other data under the name {before.data}"
            print(printable(f"recorded as {after.data}, because {why}"))
    if every:
        print(f"\n{markdown(found.table)}", end="", flush=True)
    for reason in found.reasons:
        print(reason, flush=True)
