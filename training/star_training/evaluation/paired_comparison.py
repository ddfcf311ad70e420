"""Paired comparison of two models on the same test images: differences with intervals over images.

Letters: M test images, K data sets.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..data.eval_sets.dataset import Splits
from ..engine.environment import versions
from .frozen_model import FrozenModel
from .metrics import Estimate, Hits, Metric, Z
from .protocols import classifying, find

MEAN = "mean of all"


_Measured = dict[int, tuple[Metric, Hits, Hits]]  # a metric with both models' hits, by the number of the data set


class Row(NamedTuple):
    """One metric of both models, and the first's minus the second's with its 95 % interval over test images."""

    metric: str  # its slug
    name: str  # displayed
    data: str
    first: float
    second: float
    difference: Estimate


def difference(a: Hits, b: Hits) -> Estimate:
    """Returns the weighted share of hits of `a` minus that of `b`; both have the same images (M,) and weights.

    Images are independent, but the two models' predictions for one image are not, so the interval is that of the mean
    of M differences. Its width is computed with two images more, one that only `a` classifies correctly and one that
    only `b` does, because few images without a disagreement don't show that there is none. Source: Bonett and Price,
    Journal of Educational and Behavioral Statistics 37 (2012), for equal weights.
    """
    weights = a.weights.double() / a.weights.sum()
    by_image = a.right.double() - b.right.double()
    value = float(weights @ by_image)
    more = torch.cat((by_image, by_image.new_tensor([1.0, -1.0])))
    shares = torch.cat((weights, weights.new_full((2,), 1 / len(weights))))
    shares /= shares.sum()
    return _estimate(value, float(shares.square() @ (more - shares @ more).square()))


def _estimate(value: float, variance: float) -> Estimate:
    half = Z * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


def mean(found: Sequence[Estimate]) -> Estimate:
    """Returns the mean of differences on K independent sets of images."""
    halves = [estimate.high - estimate.value for estimate in found if estimate.high is not None]
    variance = sum((half / Z) ** 2 for half in halves) / len(found) ** 2
    return _estimate(sum(estimate.value for estimate in found) / len(found), variance)


def compare(
    first: FrozenModel, second: FrozenModel, data: Sequence[Splits], protocols: Sequence[str], seed: int
) -> list[Row]:
    """Returns both models' metrics by each protocol on each data set, and the means over data sets.

    A metric of the same hits as an earlier one is left out, e.g. 20-NN on upright images by two protocols. Raises
    ValueError if a protocol can't evaluate a model or doesn't classify test images.
    """
    rows = []
    averages: dict[tuple[str, str], list[Row]] = {}  # by slug and name of the mean
    known: list[_Measured] = []
    for protocol in protocols:
        run = find(protocol)
        found: dict[str, _Measured] = {}
        for number, splits in enumerate(data):
            a, b = (run(model, splits.reading(model.channels), seed) for model in (first, second))
            if not a.hits:
                raise ValueError(
                    f"{protocol} doesn't classify test images one by one; pass {' or '.join(classifying())}"
                )
            for slug in a.hits:
                found.setdefault(slug, {})[number] = a.metrics[slug], a.hits[slug], b.hits[slug]
        new = {slug: measured for slug, measured in found.items() if not any(_same(measured, each) for each in known)}
        known += new.values()
        for number, splits in enumerate(data):
            for slug, measured in new.items():
                if number in measured:
                    metric, *hits = measured[number]
                    rows.append(_row(metric, splits.name, *hits))
                    if metric.is_accuracy:
                        averages.setdefault(metric.averaged_as or (slug, metric.name), []).append(rows[-1])
    return rows + [_mean(slug, name, each) for (slug, name), each in averages.items() if len(each) > 1]


def _same(a: _Measured, b: _Measured) -> bool:
    """Returns whether two metrics have the same hits of both models on all data sets."""
    return a.keys() == b.keys() and all(
        len(x.right) == len(y.right) and bool((x.right == y.right).all()) and torch.equal(x.weights, y.weights)
        for number in a
        for x, y in zip(a[number][1:], b[number][1:], strict=True)
    )


def _row(metric: Metric, data: str, a: Hits, b: Hits) -> Row:
    first, second = (float(h.weights.double() @ h.right.double() / h.weights.sum()) for h in (a, b))
    return Row(metric.slug, metric.name, data, first, second, difference(a, b))


def _mean(slug: str, name: str, rows: Sequence[Row]) -> Row:
    first, second = (sum(values) / len(rows) for values in zip(*((row.first, row.second) for row in rows), strict=True))
    return Row(slug, name, MEAN, first, second, mean([row.difference for row in rows]))


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
