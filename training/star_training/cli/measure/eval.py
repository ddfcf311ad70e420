"""evaluate frozen features"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...evaluation import protocols
from ...models import LEAVES, WRAPPERS
from ...settings.common import EVALUATION_WORKERS

if TYPE_CHECKING:
    from ...data.eval_sets.dataset import Splits
    from ...evaluation.many import Outcome
    from ...evaluation.record import Record

GO_ON = "the same command goes on with the rest"
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
    add("--seed", type=int, default=0, help="seed of random splits and random weights (default: %(default)s)")
    add("--workers", type=int, default=EVALUATION_WORKERS, help="processes that load images (default: %(default)s)")
    add("--out", type=Path, help="results.json to add to (default: the model's own, if it is a folder)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    every = arguments.protocol == "all"
    if arguments.protocols and not every:
        raise ValueError(f"--protocols is for eval all; eval {arguments.protocol} runs one protocol")
    given = arguments.protocols.split(",") if arguments.protocols else []
    for name in given if every else [arguments.protocol]:
        protocols.check(name)  # before the imports, which take seconds

    from ...data.eval_sets.local import expanded, found
    from ...data.eval_sets.names import told_apart
    from ...engine.results import check
    from ...evaluation.record import results_file

    specs = arguments.data or found()
    data = told_apart([each for spec in specs for each in expanded(spec)] if every else specs)
    if out := arguments.out or results_file(arguments.model):
        check(out)
    if every:
        _run_all(arguments, data, given or list(protocols.in_all()), out)
    else:
        _run_one(arguments, data, out)


def _run_one(arguments: argparse.Namespace, data: "list[Splits]", out: Path | None) -> None:
    """Evaluates on each data set by one protocol."""
    from star_catalog import store

    from ...data.summary import Summaries
    from ...evaluation.frozen_model import load
    from ...evaluation.record import evaluate

    model = load(arguments.model, arguments.seed, store.home() / "features", arguments.workers)
    summaries = Summaries(sys.stderr)
    for splits in data:
        try:
            summaries.print(splits)
            result = evaluate(arguments.protocol, model, splits, arguments.seed)
        except ValueError as error:
            if arguments.data:
                raise
            print(f"{arguments.protocol} on {splits.name} left out: {error}")
            continue
        try:
            print(result, flush=True)  # first, so that no result is lost if recording fails
        finally:  # nor if printing fails, e.g. after `| head`
            _record(out, result, splits.spec)


def _run_all(arguments: argparse.Namespace, data: "list[Splits]", names: list[str], out: Path | None) -> None:
    """Evaluates on each data set by several protocols, and prints a table. Raises ValueError if one of them failed."""
    import signal

    from star_catalog import store

    from ...engine.signals import Stopped
    from ...evaluation.frozen_model import load
    from ...evaluation.many import outcomes, work
    from ...evaluation.progress import Progress
    from ...reports.tables import by_data, markdown

    model = load(arguments.model, arguments.seed, store.home() / "features", arguments.workers)
    total, found = len(data) * len(names), []
    try:
        with Progress(sum(work(splits, names) for splits in data), sys.stderr) as progress:
            for outcome in outcomes(model, data, names, arguments.seed, progress):
                found.append(outcome)
                if outcome.record:
                    try:
                        progress.print(str(outcome.record))
                    finally:  # as for one protocol
                        _record(out, outcome.record, outcome.spec)
    except KeyboardInterrupt:
        how = f"; {len(found)} of {total} evaluations are finished"
        raise Stopped(signal.SIGINT, how) from None
    print(f"\n{markdown(by_data([outcome.record for outcome in found if outcome.record]))}", end="", flush=True)
    _report(found, all_reasons=bool(arguments.protocols))


def _report(found: "list[Outcome]", all_reasons: bool) -> None:
    """Prints the reasons for missing results. Raises ValueError if an evaluation failed.

    Without `all_reasons`, protocols that don't apply are only mentioned for a data set without any result.
    """
    measured = {outcome.data for outcome in found if outcome.record}
    for outcome in found:
        if not outcome.record and (all_reasons or outcome.end != "not applicable" or outcome.data not in measured):
            print(f"{outcome.protocol} on {outcome.data} {outcome.end}: {outcome.reason}", flush=True)
    if failed := [f"{outcome.protocol} on {outcome.data}" for outcome in found if outcome.end == "failed"]:
        raise ValueError(f"{len(failed)} of {len(found)} evaluations failed: {', '.join(failed)}")


def _record(out: Path | None, result: "Record", spec: str) -> None:
    """Adds a result to a results.json, if there is one, and prints its name there if that is another."""
    from ...evaluation.record import record

    name = record(out, result, spec).data if out else result.data
    if name != result.data:
        print(f"recorded as {name}, because {out} holds other data under the name {result.data}")
