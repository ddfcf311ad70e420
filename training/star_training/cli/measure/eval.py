"""evaluate frozen features"""

import argparse
import sys
from pathlib import Path

from ...evaluation import protocols
from ...models import LEAVES, WRAPPERS
from ...settings.common import EVALUATION_WORKERS


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("protocol", help=f"all, or one of {', '.join(protocols.known())}")
    add("model", help=f"{LEAVES}, pixels, {WRAPPERS}")
    add("--data", nargs="+", help="data sets with train and test splits (default: all in $STAR_ZOO_DATA)")
    add("--seed", type=int, default=0, help="seed of random splits and random weights (default: %(default)s)")
    add("--workers", type=int, default=EVALUATION_WORKERS, help="processes that load images (default: %(default)s)")
    add("--out", type=Path, help="results.json to add to (default: the model's own, if it is a folder)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from star_zoo import store

    from ...data.eval_sets.local import found
    from ...data.eval_sets.names import told_apart
    from ...data.summary import Summaries
    from ...engine.results import check
    from ...evaluation.frozen_model import load
    from ...evaluation.record import evaluate, record, results_file

    names = protocols.known() if arguments.protocol == "all" else (arguments.protocol,)
    for name in names:
        protocols.find(name)  # rejects a wrong name before the model is loaded
    data = told_apart(arguments.data or found())
    out = arguments.out or results_file(arguments.model)
    if out:
        check(out)
    model = load(arguments.model, arguments.seed, store.home() / "features", arguments.workers)
    summaries = Summaries(sys.stderr)
    for splits in data:
        for protocol in names:
            try:
                summaries.print(splits)
                result = evaluate(protocol, model, splits, arguments.seed)
            except ValueError as error:
                if arguments.protocol != "all" and arguments.data:
                    raise
                print(f"{protocol} on {splits.name} left out: {error}")
                continue
            try:
                print(result, flush=True)  # first, so that no result is lost if recording fails
            finally:  # nor if printing fails, e.g. after `| head`
                name = record(out, result, splits.spec).data if out else splits.name
            if name != splits.name:
                print(f"recorded as {name}, because {out} holds other data under the name {splits.name}")
