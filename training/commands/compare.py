"""compare two models on the same test images"""

import argparse
from pathlib import Path


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("first", help="a run, a saved folder, a zoo tag, any timm name, untrained:NAME, or pixels")
    add("second", help="another, whose numbers are taken from the first's")
    add("--data", nargs="+", help="data sets with train and test splits (all that lie in STAR_ZOO_DATA)")
    add("--protocol", nargs="+", default=["linear", "knn"], help="linear, knn or both (%(default)s)")
    add("--seed", type=int, default=0, help="of random splits (%(default)s)")
    add("--out", type=Path, help="a results.json to add to (the first model's own, where it is a folder)")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from star_zoo import store

    from ..data.found import found
    from ..data.splits import Splits
    from ..evaluate import record_comparison, results_file
    from ..paired import as_record, compare
    from ..report.tables import Table, markdown, per_cent
    from ..subject import load

    cache = store.home() / "features"
    first, second = (load(name, arguments.seed, cache) for name in (arguments.first, arguments.second))
    data = [Splits(spec) for spec in arguments.data or found()]
    for note in filter(None, (splits.note for splits in data)):
        print(note)
    rows = compare(first, second, data, arguments.protocol, arguments.seed)
    cells = [
        [r.metric, r.data, f"{100 * r.first:.1f}", f"{100 * r.second:.1f}", per_cent(r.difference._asdict())]
        for r in rows
    ]
    print(
        markdown(Table("", ["metric, %", "data", first.name, second.name, "difference [95 % interval]"], cells)), end=""
    )
    if out := arguments.out or results_file(arguments.first):
        record_comparison(out, as_record(first, second, data, arguments.protocol, arguments.seed, rows))
