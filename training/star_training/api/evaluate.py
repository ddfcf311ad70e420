"""`evaluate`: measures a model's frozen features."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog.files import user_path

from ..engine.signals import Stopped, interrupting
from ..evaluation import protocols
from ..messages import noted
from ..settings.common import EVALUATION_WORKERS, MAX_BAD
from .arguments import Data, Model, Place, listed
from .trained import continuing

if TYPE_CHECKING:
    from ..data.eval_sets.dataset import Splits
    from ..evaluation.frozen_model import FrozenModel
    from ..evaluation.many import Outcome
    from ..evaluation.record import Record
    from .evaluations import Evaluations


@noted()
def evaluate(
    model: Model,
    protocol: str | Sequence[str] = "all",
    *,
    data: Data = None,
    max_bad: float = MAX_BAD,
    seed: int = 0,
    workers: int = EVALUATION_WORKERS,
    out: Place | None = None,
    each: "Callable[[Record], None]" = lambda record: None,
) -> "Evaluations":
    """Evaluates a model's frozen features on data sets, adds the records to its results.json, and returns them.

    Args:
        model: a `Trained`, or any name of a model, also with wrappers, e.g. "concat:runs/a+runs/b".
        protocol: the name of a protocol, a list of several, or "all": knn, linear, few_shot, regression.
        data: data sets with train and test splits, as in `--data`; None: all in $STAR_ZOO_DATA. For several protocols,
            also a folder of data sets.
        max_bad: share of each split's images that may fail to decode.
        seed: seed of random splits and random weights.
        workers: processes that load images.
        out: the results.json to add to; None: the model's own, if it is a folder.
        each: called with each record before it is stored, e.g. to print it.

    Features are cached. One protocol ends with the first error. Several go on with the rest, and raise SomeFailed, a
    ValueError with the other results, at the end. An interrupt, SIGTERM and SIGHUP raise Stopped; the same call then
    continues.
    """
    several = protocol == "all" or not isinstance(protocol, str)
    given = [] if protocol == "all" else [protocol] if isinstance(protocol, str) else list(protocol)
    for name in given:
        protocols.check(name)  # before the imports, which take seconds

    from ..data.eval_sets.local import expanded, found
    from ..data.eval_sets.names import distinctly_named
    from ..engine.results import check
    from ..evaluation.many import Outcome
    from ..evaluation.record import results_file
    from .evaluations import Evaluations, SomeFailed

    specs = listed(data) or found()
    splits = distinctly_named([one for spec in specs for one in expanded(spec)] if several else specs, max_bad)
    file = results_file(os.fspath(model)) if out is None else user_path(out)
    if file:
        check(file)
    names, frozen = given or list(protocols.in_all()), frozen_model(model, seed, workers)
    made: list[Outcome] = []
    counting: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if several:
        outcomes, counting = _of_several(frozen, names, splits, seed), _counting(made, len(splits) * len(names))
    else:
        outcomes = _of_one(frozen, names[0], splits, seed, skip=data is None)
    with counting, contextlib.closing(outcomes):
        for outcome in outcomes:
            made.append(outcome)
            made[-1] = _stored(outcome, file, each)
    evaluations = Evaluations(made, file, all_reasons=bool(given))
    if several and (failed := [one for one in made if one.end == "failed"]):
        places = ", ".join(f"{one.protocol} on {one.data}" for one in failed)
        message = f"{len(failed)} of {len(made)} evaluations failed: {places}; the first: {failed[0].reason}"
        raise SomeFailed(message, evaluations)
    return evaluations


def frozen_model(model: Model, seed: int, workers: int) -> "FrozenModel":
    """Returns a model for evaluation, whose features are cached. Raises ValueError for one that can't be loaded."""
    from star_catalog import store

    from ..evaluation.frozen_model import load

    return load(os.fspath(model), seed, store.home() / "features", workers)


def _of_one(
    model: "FrozenModel", protocol: str, data: "list[Splits]", seed: int, skip: bool
) -> "Generator[Outcome, None, None]":
    """Yields the outcome on each data set. Raises ValueError for one that can't be evaluated, unless `skip`."""
    from ..data.summary import Summaries
    from ..engine.logging import messages
    from ..evaluation.many import Outcome
    from ..evaluation.progress import Progress
    from ..evaluation.record import evaluate
    from ..messages import detail

    summaries = Summaries(messages())
    for splits in (each.reading(model.channels) for each in data):
        place = splits.name, splits.spec, protocol
        try:
            with Progress(None, messages()) as progress:
                progress.begin(f"{protocol} on {splits.name}")
                summaries.print(splits)
                record = evaluate(protocol, model, splits, seed)
            used = ", ".join(f"{name} {version}" for name, version in record.versions.items())
            detail(f"{protocol} on {splits.name}: {record.seconds} s, {used}")
            outcome = Outcome(*place, record)
        except ValueError as error:
            if not skip:
                raise
            outcome = Outcome(*place, None, str(error), "left out")
        yield outcome


def _of_several(
    model: "FrozenModel", names: list[str], data: "list[Splits]", seed: int
) -> "Generator[Outcome, None, None]":
    """Yields the outcome of each protocol on each data set, and displays the progress."""
    from ..engine.logging import messages
    from ..evaluation.many import outcomes, work
    from ..evaluation.progress import Progress

    with Progress(sum(work(splits, names) for splits in data), messages()) as progress:
        yield from outcomes(model, data, names, seed, progress)


@contextlib.contextmanager
def _counting(finished: "list[Outcome]", total: int) -> Iterator[None]:
    """Turns an interrupt, SIGTERM and SIGHUP into Stopped, with the number of finished evaluations."""
    with continuing("the same call goes on with the rest"):
        try:
            with interrupting():
                yield
        except KeyboardInterrupt as interrupt:
            raise Stopped.by(interrupt, f"; {len(finished)} of {total} evaluations are finished") from None


def _stored(outcome: "Outcome", file: Path | None, each: "Callable[[Record], None]") -> "Outcome":
    """Passes a record on, then adds it to a results.json; returns it under the name that its data have there."""
    from tqdm import tqdm

    from ..engine.logging import messages
    from ..evaluation.record import record

    made = outcome.record
    if made is None:
        return outcome
    try:
        with tqdm.external_write_mode(file=messages()):
            each(made)  # first, so that no result is lost if recording fails
    finally:  # nor if printing fails, e.g. after `| head`
        stored = record(file, made, outcome.spec) if file else made
    return outcome._replace(record=stored)
