"""`compare`: measures two models on the same test images."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from star_catalog.files import user_path

from ..evaluation import protocols
from ..messages import noted
from ..settings.common import EVALUATION_WORKERS, MAX_BAD
from .arguments import Data, Model, Place, listed
from .evaluate import frozen_model

if TYPE_CHECKING:
    from .comparison import Comparison


@noted()
def compare(
    first: Model,
    second: Model,
    *,
    data: Data = None,
    protocol: str | Sequence[str] | None = None,
    max_bad: float = MAX_BAD,
    seed: int = 0,
    workers: int = EVALUATION_WORKERS,
    out: Place | None = None,
    each: "Callable[[Comparison], None]" = lambda comparison: None,
) -> "Comparison":
    """Returns the differences of two models with 95 % intervals over test images, and adds them to a results.json.

    Args:
        first: a `Trained`, or any name of a model.
        second: another one; differences are first minus second.
        data: data sets with train and test splits, as in `--data`; None: all in $STAR_ZOO_DATA.
        protocol: one or several that classify test images one by one; None: those of `eval all`.
        max_bad: share of each split's images that may fail to decode.
        seed: seed of random splits.
        workers: processes that load images.
        out: the results.json to add to; None: the first model's own, if it is a folder.
        each: called with the comparison before it is stored, e.g. to print it.

    Raises ValueError if a protocol can't evaluate a model or doesn't classify test images.
    """
    names = [protocol] if isinstance(protocol, str) else list(protocol or ())
    for name in names:
        protocols.check(name)  # before the imports, which take seconds

    from ..data.eval_sets.local import found
    from ..data.eval_sets.names import distinctly_named
    from ..data.summary import Summaries
    from ..engine.logging import messages
    from ..engine.results import check
    from ..evaluation import paired_comparison
    from ..evaluation.progress import Progress
    from ..evaluation.record import results_file
    from .comparison import Comparison

    file = results_file(os.fspath(first)) if out is None else user_path(out)
    if file:
        check(file)
    one, other = frozen_model(first, seed, workers), frozen_model(second, seed, workers)
    splits = [of_set.reading(one.channels) for of_set in distinctly_named(listed(data) or found(), max_bad)]
    summaries = Summaries(messages())
    with Progress(None, messages()) as progress:
        progress.begin(f"comparing {one.name} with {other.name}")
        for each_set in splits:
            summaries.print(each_set)
        names = names or list(protocols.compared())
        rows = paired_comparison.compare(one, other, splits, names, seed)
    made = paired_comparison.as_record(one, other, splits, names, seed, rows)
    comparison = Comparison(one.name, other.name, rows, made, [each_set.spec for each_set in splits])
    try:
        each(comparison)  # first, as in `evaluate`
    finally:
        if file:
            comparison.store(file)
    return comparison
