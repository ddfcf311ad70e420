"""Paired comparison of two models on the same test images: differences with intervals over images.

Letters: M test images, K data sets.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..data.eval_sets.dataset import Splits
from ..engine.environment import versions
from .frozen_model import FrozenModel
from .metrics import Hits, Metric, Z
from .protocols import find

MEAN = "mean of all"


class Row(NamedTuple):
    """One metric of both models, and the first's minus the second's with its 95 % interval over test images."""

    metric: str
    data: str
    first: float
    second: float
    difference: Metric


def difference(a: Hits, b: Hits) -> Metric:
    """Returns the weighted share of hits of `a` minus that of `b`; both have the same images (M,) and weights.

    Images are independent, but the two models' predictions for one image are not, so the interval is that of the mean
    of M differences.
    """
    weights = a.weights.double() / a.weights.sum()
    by_image = a.right.double() - b.right.double()
    value = float(weights @ by_image)
    variance = float(weights.square() @ (by_image - value).square()) * len(weights) / max(1, len(weights) - 1)
    return _metric(value, variance)


def _metric(value: float, variance: float) -> Metric:
    half = Z * math.sqrt(variance)
    return Metric(value, value - half, value + half)


def mean(found: Sequence[Metric]) -> Metric:
    """Returns the mean of differences on K independent sets of images."""
    halves = [metric.high - metric.value for metric in found if metric.high is not None]
    variance = sum((half / Z) ** 2 for half in halves) / len(found) ** 2
    return _metric(sum(metric.value for metric in found) / len(found), variance)


def compare(
    first: FrozenModel, second: FrozenModel, data: Sequence[Splits], protocols: Sequence[str], seed: int
) -> list[Row]:
    """Returns both models' metrics by each protocol on each data set, and the means over data sets.

    Raises ValueError if a protocol can't evaluate a model or doesn't classify test images.
    """
    rows = []
    for protocol in protocols:
        run = find(protocol)
        for splits in data:
            a, b = run(first, splits, seed), run(second, splits, seed)
            if not a.hits:
                raise ValueError(f"{protocol} doesn't classify test images one by one; give linear or knn")
            rows += [_row(name, splits.name, a.hits[name], b.hits[name]) for name in a.hits]
    return rows + _means(rows)


def _row(metric: str, data: str, a: Hits, b: Hits) -> Row:
    first, second = (float(h.weights.double() @ h.right.double() / h.weights.sum()) for h in (a, b))
    return Row(metric, data, first, second, difference(a, b))


def _means(rows: Sequence[Row]) -> list[Row]:
    """Returns one row of means per kind of metric; accuracies over images and per class are of one kind."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row.metric.partition(" ")[0], []).append(row)
    return [
        Row(
            f"{kind} accuracy",
            MEAN,
            sum(row.first for row in of_kind) / len(of_kind),
            sum(row.second for row in of_kind) / len(of_kind),
            mean([row.difference for row in of_kind]),
        )
        for kind, of_kind in by_kind.items()
        if len(of_kind) > 1
    ]


def as_record(
    first: FrozenModel,
    second: FrozenModel,
    data: Sequence[Splits],
    protocols: Sequence[str],
    seed: int,
    rows: Sequence[Row],
) -> dict[str, Any]:
    """Returns the comparison as plain JSON."""
    return {
        "model": first.name,
        "model_fingerprint": first.fingerprint,
        "other": second.name,
        "other_fingerprint": second.fingerprint,
        "protocols": list(protocols),
        "data_fingerprints": {
            splits.name: {name: source.fingerprint for name, source in splits.opened.items()} for splits in data
        },
        "test images": {splits.name: splits.test_images for splits in data},
        "seed": seed,
        "interval": "over test images, of these two models alone",
        "rows": [{**row._asdict(), "difference": row.difference._asdict()} for row in rows],
        "versions": versions(),
    }
