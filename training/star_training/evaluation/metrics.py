"""Metrics with 95 % confidence intervals, and `Measurement`, the result of a protocol."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.special import ndtri, stdtrit  # quantiles of scipy.stats, whose import takes five times as long
from torch import Tensor

Z = float(ndtri(0.975))  # the standard normal's quantile


class Metric(NamedTuple):
    """A value and the bounds of its 95 % confidence interval, if the protocol computes one."""

    value: float
    low: float | None = None
    high: float | None = None


class Hits(NamedTuple):
    """Correctly classified test images, (M,) bool, and the weight of each, (M,), relative to the weights' sum."""

    right: Tensor
    weights: Tensor


class Measurement(NamedTuple):
    """The result of one protocol for one model and data set."""

    metrics: dict[str, Metric]
    settings: dict[str, Any] = {}  # the protocol's settings, in full  # noqa: RUF012
    details: dict[str, Any] = {}  # data for figures: curves, matrices, indices; plain JSON  # noqa: RUF012
    hits: dict[str, Hits] = {}  # by metric, for those that are shares of test images  # noqa: RUF012


def share(hits: Tensor) -> Metric:
    """Returns the share of hits among independent trials (N,) bool, with Wilson's interval."""
    n, p = len(hits), float(hits.double().mean())
    centre, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + Z**2 / n) for sign in (-1, 1))
    return Metric(p, max(0.0, low), min(1.0, high))


def mean(values: Tensor | Sequence[float]) -> Metric:
    """Returns the mean of independent values (N,), plus and minus 1.96 standard errors; one value has no interval."""
    values = torch.as_tensor(values, dtype=torch.float64)
    centre = float(values.mean())
    if len(values) < 2:
        return Metric(centre)
    half = Z * float(values.std()) / math.sqrt(len(values))
    return Metric(centre, centre - half, centre + half)


def of_runs(values: Sequence[float]) -> Metric:
    """Returns the mean of a few runs' values with Student's interval, which assumes a normal distribution.

    One run has no interval.
    """
    runs = torch.tensor(values, dtype=torch.float64)
    centre = float(runs.mean())
    if len(runs) < 2:
        return Metric(centre)
    half = float(stdtrit(len(runs) - 1, 0.975)) * float(runs.std()) / math.sqrt(len(runs))
    return Metric(centre, centre - half, centre + half)


def class_mean(hits: Tensor, targets: Tensor) -> Metric:
    """Returns the mean over classes of the share of hits, hits (N,) bool, targets (N,); classes are held fixed."""
    rates, variance = [], 0.0
    for label in targets.unique():
        of_class = hits[targets == label].double()
        rates.append(float(of_class.mean()))
        # Laplace's estimate, so that a class of one image adds to the uncertainty too
        smoothed = (float(of_class.sum()) + 1) / (len(of_class) + 2)
        variance += smoothed * (1 - smoothed) / len(of_class)
    centre, half = sum(rates) / len(rates), Z * math.sqrt(variance) / len(rates)
    return Metric(centre, max(0.0, centre - half), min(1.0, centre + half))
