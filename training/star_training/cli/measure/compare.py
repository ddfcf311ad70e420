"""compare two models on the same test images"""

import argparse
import sys
from pathlib import Path

from ...evaluation import protocols
from ...models import LEAVES, WRAPPERS
from ...settings.common import EVALUATION_WORKERS


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("first", help=f"{LEAVES}, pixels, {WRAPPERS}")
    add("second", help="another model; differences are first minus second")
    add("--data", nargs="+", help="data sets with train and test splits (default: all in $STAR_ZOO_DATA)")
    add("--protocol", nargs="+", help="protocols that classify test images one by one (default: all that do)")
    add("--seed", type=int, default=0, help="seed of random splits (default: %(default)s)")
    add("--workers", type=int, default=EVALUATION_WORKERS, help="processes that load images (default: %(default)s)")
    add("--out", type=Path, help="results.json to add to (default: the first model's own, if it is a folder)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    for name in arguments.protocol or ():
        protocols.check(name)  # before the imports, which take seconds

    from star_catalog import store

    from ...data.eval_sets.local import found
    from ...data.eval_sets.names import told_apart
    from ...data.summary import Summaries
    from ...engine.results import check
    from ...evaluation.frozen_model import load
    from ...evaluation.paired_comparison import as_record, compare
    from ...evaluation.record import record_comparison, results_file
    from ...reports.tables import Table, markdown, per_cent

    if out := arguments.out or results_file(arguments.first):
        check(out)
    cache = store.home() / "features"
    first, second = (
        load(name, arguments.seed, cache, arguments.workers) for name in (arguments.first, arguments.second)
    )
    data = told_apart(arguments.data or found())
    summaries = Summaries(sys.stderr)
    for splits in data:
        summaries.print(splits)
    names = arguments.protocol or protocols.classifying()
    rows = compare(first, second, data, names, arguments.seed)
    cells = [[r.name, r.data, f"{100 * r.first:.1f}", f"{100 * r.second:.1f}", per_cent(r.difference)] for r in rows]
    table = Table("", ["metric, %", "data", first.name, second.name, "difference [95 % interval]"], cells)
    try:
        print(markdown(table), end="", flush=True)  # before recording, as in `eval`
    finally:
        if out:
            made = as_record(first, second, data, names, arguments.seed, rows)
            record_comparison(out, made, [splits.spec for splits in data])
