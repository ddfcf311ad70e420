"""Estimates with 95 % confidence intervals, metrics, and `Measurement`, the result of a protocol."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from star_catalog.decimals import fixed

Z = 1.959963984540054  # the standard normal's quantile of 0.975


SHARE = "share"  # the unit of metrics that are displayed in per cent
RATE = "images/s"  # the unit of metrics that are displayed as whole numbers
ACCURACY = "accuracy"  # the kind of metrics that measure performance on a task; all other kinds describe the features


class Estimate(NamedTuple):
    """A value and the bounds of its 95 % confidence interval, if one is computed."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, write: Callable[[float], str]) -> str:
        """Returns the value, and the bounds in brackets if there are any, each number as `write` returns it."""
        if self.low is None or self.high is None:
            return write(self.value)
        return f"{write(self.value)} [{write(self.low)}, {write(self.high)}]"

    def per_cent(self) -> str:
        """Returns a share and its bounds in per cent."""
        return self.text(lambda value: fixed(100 * value, 1))


class Metric(NamedTuple):
    """One number of a protocol. Tables, cards and comparisons derive from its unit and kind how they treat it."""

    slug: str  # the stable identifier in files and code, e.g. "knn20_top1"
    name: str  # displayed, e.g. "20-NN top-1"
    unit: str  # SHARE, or e.g. "R2" or "nats"; "" for numbers without a unit
    kind: str  # ACCURACY, or the property that is described, e.g. "invariance"
    value: float
    low: float | None = None
    high: float | None = None
    # Slug and name of the mean over data sets, if metrics of several slugs may be averaged, e.g. top-1 and per class.
    averaged_as: tuple[str, str] | None = None
    listed: bool = True  # whether cards, pages and printed results list it; results.json holds every metric

    @property
    def estimate(self) -> Estimate:
        """The value with its bounds."""
        return Estimate(self.value, self.low, self.high)

    @property
    def is_share(self) -> bool:
        """Whether the metric is displayed in per cent."""
        return self.unit == SHARE

    @property
    def title(self) -> str:
        """The name, with the per cent in which a share is displayed."""
        return f"{self.name}, %" if self.is_share else self.name

    def text(self, write: Callable[[float], str]) -> str:
        """Returns the value with its interval: a share in per cent, another number as `write` returns it."""
        return self.estimate.per_cent() if self.is_share else self.estimate.text(write)

    @property
    def digits(self) -> int:
        """The decimals that are displayed."""
        return {SHARE: 1, RATE: 0}.get(self.unit, 3)

    @property
    def is_accuracy(self) -> bool:
        """Whether the metric measures performance on a task, which may be averaged over data sets."""
        return self.kind == ACCURACY

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON without the slug, which is the key in the metrics of a record."""
        own = ("slug", "averaged_as", "listed")
        fields = {name: value for name, value in self._asdict().items() if name not in own}
        average = {"averaged_as": list(self.averaged_as)} if self.averaged_as else {}
        return fields | average | ({} if self.listed else {"listed": False})

    @classmethod
    def from_dict(cls, slug: str, found: dict[str, Any]) -> "Metric":
        """Returns the metric of `to_dict`, whose other keys are ignored."""
        fields = {name: found[name] for name in cls._fields if name in found}
        average = found.get("averaged_as")
        return cls(**fields | {"slug": slug, "averaged_as": tuple(average) if average else None})


def by_slug(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Returns metrics by slug, in their order."""
    return {metric.slug: metric for metric in metrics}


class Hits(NamedTuple):
    """Correctly classified test images, (M,), and the weight of each, (M,), relative to the weights' sum."""

    right: Tensor  # bool; or float, the share of an image's predictions that are correct
    weights: Tensor


class NotApplicable(ValueError):
    """Raised by a protocol that isn't meant for such a model or for such labels."""


class TooFew(ValueError):
    """Raised by a protocol for a data set that has too few images or classes for it."""


class Measurement(NamedTuple):
    """The result of one protocol for one model and data set."""

    metrics: dict[str, Metric]  # by slug
    settings: dict[str, Any] = {}  # the protocol's settings, in full  # noqa: RUF012
    details: dict[str, Any] = {}  # data for figures: curves, matrices, indices; plain JSON  # noqa: RUF012
    hits: dict[str, Hits] = {}  # by slug, for metrics that are shares of test images  # noqa: RUF012


def share(hits: Tensor) -> Estimate:
    """Returns the share of hits among independent trials (N,) bool, with Wilson's interval.

    Trials may also be shares from 0 to 1, which vary less than hits of the same mean: the interval is then too wide.
    """
    n, p = len(hits), float(hits.double().mean())
    centre, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + Z**2 / n) for sign in (-1, 1))
    return Estimate(p, max(0.0, low), min(1.0, high))


def mean(values: Tensor | Sequence[float]) -> Estimate:
    """Returns the mean of independent values (N,), plus and minus 1.96 standard errors; one value has no interval."""
    values = torch.as_tensor(values, dtype=torch.float64)
    centre = float(values.mean())
    if len(values) < 2:
        return Estimate(centre)
    half = Z * float(values.std()) / math.sqrt(len(values))
    return Estimate(centre, centre - half, centre + half)


def of_runs(values: Sequence[float]) -> Estimate:
    """Returns the mean of a few runs' values with Student's interval, which assumes a normal distribution.

    One run has no interval.
    """
    runs = torch.tensor(values, dtype=torch.float64)
    centre = float(runs.mean())
    if len(runs) < 2:
        return Estimate(centre)
    from scipy.special import stdtrit  # the quantile of scipy.stats, whose import takes five times as long

    half = float(stdtrit(len(runs) - 1, 0.975)) * float(runs.std()) / math.sqrt(len(runs))
    return Estimate(centre, centre - half, centre + half)


def class_mean(hits: Tensor, targets: Tensor) -> Estimate:
    """Returns the mean over classes of the share of hits, hits (N,) as in `share`, targets (N,); classes are fixed."""
    rates, variance = [], 0.0
    for label in targets.unique():
        of_class = hits[targets == label].double()
        rates.append(float(of_class.mean()))
        # Laplace's estimate, so that a class of one image adds to the uncertainty too
        smoothed = (float(of_class.sum()) + 1) / (len(of_class) + 2)
        variance += smoothed * (1 - smoothed) / len(of_class)
    centre, half = sum(rates) / len(rates), Z * math.sqrt(variance) / len(rates)
    return Estimate(centre, max(0.0, centre - half), min(1.0, centre + half))
