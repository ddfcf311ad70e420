"""Multinomial logistic regression with a ridge, for many strengths of it, each to a known distance from the optimum.

Letters: N images, C classes, D features, R = D + 1 coordinates (a one for the bias is the last feature), K leading.

The objective is the sum of cross entropies + w * (|weights|^2 + |bias|^2). Newton's method, its steps by preconditioned
conjugate gradients (Nocedal and Wright, Numerical Optimization, 2006, chapter 7), goes from the largest w, where the
problem is easy, down to the smallest; each fit starts where those before it point to.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.sources.raw import evenly_spaced

_LEADING = 64  # K: in these coordinates the preconditioner knows the curvature of each class in full
_ROWS = 1024  # images that the axes are taken from at least
_ENOUGH = 4000  # images, or up to twice as many, that the preconditioner is made from
_SMALL = 100_000  # features whose products take less time than to ask for them
_CHUNK = 1024  # images at once where that spares the memory a second reading
_STEPS, _INNER = 100, 200  # Newton steps of a fit and conjugate gradients of a step, at most: far above what is needed


class Fit(NamedTuple):
    """A minimiser of the objective."""

    weights: Tensor  # (C, R) float64, the bias last
    objective: float
    gap: float  # how far the objective is above the optimum, estimated from gradient and curvature
    spread: float  # what the gap may change of the logits of undecided images, root mean square


class Point(NamedTuple):
    """Where the iteration stands."""

    weights: Tensor  # (C, R) along the axes
    logits: Tensor  # (C, N)
    residual: Tensor  # (C, N) p minus one for the label
    p: Tensor  # (C, N) probabilities
    variance: Tensor  # (C, N) p * (1 - p)
    loss: float  # sum of cross entropies

    def objective(self, w: float) -> float:
        """The loss with the ridge of strength w."""
        return self.loss + w * _dot(self.weights, self.weights)


class Logistic:
    """The regression of images with features (N, D) and labels (N,) int64 below `classes`.

    All is kept along the features' principal axes, by which neither norms nor optima change. Along them a
    preconditioner that is full in the leading coordinates and diagonal in the rest is a good one, and float32 tells
    the trailing ones, which beside a large mean it wouldn't. By default small problems, where it costs nothing, are in
    float64, which can do without any tolerance.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int, dtype: torch.dtype | None = None):
        dtype = dtype or (torch.float64 if features.numel() < _SMALL else torch.float32)
        sample = with_ones(features[evenly_spaced(len(features), max(_ROWS, 2 * features.shape[1]))])
        self._axes = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)  # (R, R) float64, leading first
        images = torch.cat([(with_ones(part) @ self._axes).to(dtype) for part in features.split(_CHUNK)])
        self._hold(images, labels[None], classes)

    def _hold(self, images: Tensor, labels: Tensor, classes: int) -> None:
        self._images, self._labels, self._classes = images, labels, classes  # (N, R), (1, N)
        self._preconditioner: _Preconditioner | None = None

    def first(self, count: int) -> "Logistic":
        """The regression of the first `count` images alone, which shares their memory."""
        part = object.__new__(Logistic)
        part._axes = self._axes
        part._hold(self._images[:count], self._labels[:, :count], self._classes)
        return part

    def path(self, strengths: Sequence[float], tolerance: float) -> dict[float, Fit]:
        """Fits for all strengths, each with gap <= tolerance * objective."""
        found: dict[float, Fit] = {}
        last: list[tuple[float, Point]] = []
        for w in sorted(strengths, reverse=True):
            point, found[w] = self._minimise(w, self._foreseen(w, last), tolerance)
            last = [*last[-2:], (w, point)]
        return found

    def fit(self, w: float, start: Tensor, tolerance: float) -> Fit:
        """A fit that starts from weights (C, R) of other images or another strength, or from zero if that is better."""
        start = start - start.mean(0)  # as the optimum's do, weights sum to zero over classes; steps keep that sum
        given = self._at((start @ self._axes).to(self._images.dtype))
        self._preconditioner = None  # the one there may be is from another strength
        return self._minimise(w, min(given, self._zero(), key=lambda point: point.objective(w)), tolerance)[1]

    def _at(self, weights: Tensor, logits: Tensor | None = None) -> Point:
        """Loss and probabilities, each to float32's relative precision however small.

        Logits count from the label's own, for where p is nearly one, 1 - p can't be had from it.
        """
        logits = weights @ self._images.T if logits is None else logits
        others = (logits - logits.gather(0, self._labels)).scatter_(0, self._labels, -math.inf)
        loss = F.softplus(torch.logsumexp(others, 0), threshold=40)
        hit, missed = (-loss).exp()[None], -torch.expm1(-loss)[None]
        p = (others - loss).exp_()  # zero for the label so far
        residual = p.scatter(0, self._labels, -missed)
        variance = (p * (1 - p)).scatter_(0, self._labels, hit * missed)
        p.scatter_(0, self._labels, hit)
        return Point(weights, logits, residual, p, variance, float(loss.double().sum()))

    def _zero(self) -> Point:
        return self._at(self._images.new_zeros(self._classes, self._images.shape[1]))

    def _foreseen(self, w: float, last: list[tuple[float, Point]]) -> Point:
        """Where the weights of the last strengths, as a polynomial in log w, point to; the last itself if better."""
        if not last:
            return self._zero()
        ahead = torch.zeros_like(last[-1][1].weights)
        for v, point in last:
            others = [u for u, _ in last if u != v]
            ahead += point.weights * math.prod(math.log(w / u) / math.log(v / u) for u in others)
        ahead_point, last_point = self._at(ahead), last[-1][1]
        return min(ahead_point, last_point, key=lambda point: point.objective(w))

    def _minimise(self, w: float, point: Point, tolerance: float) -> tuple[Point, Fit]:
        """Newton's method until the gap is small enough, or rounding lets it shrink no more."""
        least, stalled = math.inf, 0
        for _ in range(_STEPS):
            inverse = self._inverse(w, point)
            gradient = point.residual @ self._images + 2 * w * point.weights
            step = inverse(gradient)
            gap = max(0.0, _dot(gradient, step)) / 2 / inverse.least
            objective = point.objective(w)
            stalled = stalled + 1 if gap > least / 2 else 0
            if gap <= tolerance * objective or (stalled == 3 and gap < 1e-6 * objective):
                break
            least = min(least, gap)
            point = self._newton(w, point, gradient, step, inverse, tolerance * objective)
        spread = math.sqrt(2 * gap / max(float(point.variance.double().sum()), 1e-30))
        return point, Fit(point.weights.double() @ self._axes.T, objective, gap, spread)

    def _inverse(self, w: float, point: Point) -> "_Preconditioner":
        """A preconditioner for w: the one there is, until it has cost as many iterations as a new one costs."""
        inverse = self._preconditioner
        if inverse is None or inverse.outdated:
            inverse = _Preconditioner(self._images, point.variance, min(0.5, 2 * inverse.least) if inverse else 0.5)
        inverse.prepare(w, point.variance)
        self._preconditioner = inverse
        return inverse

    def _newton(
        self, w: float, point: Point, gradient: Tensor, step: Tensor, inverse: "_Preconditioner", target: float
    ) -> Point:
        """One step. `step` is the preconditioned gradient (C, R), `target` the gap that is wanted."""
        moved, shifts = torch.zeros_like(step), torch.zeros_like(point.logits)
        residual, ahead, rz = gradient.clone(), -step, _dot(gradient, step)
        gained, lengths, ratios = 0.0, list[float](), list[float]()
        while len(lengths) < _INNER:
            hessian, logits = self._curved(w, point, ahead)
            if rz <= 0 or (curvature := _dot(ahead, hessian)) <= 0:
                break  # all that is left is rounding
            length = rz / curvature
            lengths.append(length)
            moved += length * ahead
            shifts += length * logits
            residual += length * hessian
            gained += length * rz / 2
            step = inverse(residual)
            before, rz = rz, _dot(residual, step)
            left = rz / 2 / min(inverse.least, 1 / max(lengths))
            if left <= max(0.003 * gained, 0.4 * target):
                break
            ratios.append(rz / before)
            ahead = ratios[-1] * ahead - step
        if lengths:
            inverse.learn(lengths, ratios)
        return self._along(w, point, moved, shifts, _dot(gradient, moved))

    def _curved(self, w: float, point: Point, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """The Hessian at a point times a direction (C, R), and what the direction does to the logits (C, N)."""
        product, logits = 2 * w * ahead, torch.empty_like(point.p)
        parts = (self._images.split(_CHUNK), self._labels.split(_CHUNK, 1))
        for images, labels, p, out in zip(*parts, point.p.split(_CHUNK, 1), logits.split(_CHUNK, 1), strict=True):
            torch.mm(ahead, images.T, out=out)
            relative = out - out.gather(0, labels)  # as in `_at`
            product.addmm_(p * (relative - (p * relative).sum(0)), images)
        return product, logits

    def _along(self, w: float, point: Point, moved: Tensor, shifts: Tensor, slope: float) -> Point:
        """The end of the step, or of a half or quarter of it where the objective asks for it (Armijo's rule)."""
        start, share = point.objective(w), 1.0
        while True:
            end = self._at(point.weights + share * moved, point.logits + share * shifts)
            if end.objective(w) <= start * (1 + 1e-7) + 1e-4 * share * slope or share < 1e-6:
                return end
            share /= 2


class _Preconditioner:
    """Roughly the inverse Hessian: each class for itself, full in the leading coordinates, diagonal in the rest.

    images (N, R), variance (C, N) at some point. How the variance of a class is spread over images is of there; its
    sum, which falls by orders of magnitude where images are well fitted, and the ridge are as `prepare` was told.
    """

    def __init__(self, images: Tensor, variance: Tensor, least: float):
        size = min(_LEADING, images.shape[1])
        leading = images.new_zeros(len(variance), size**2)
        trailing = images.new_zeros(len(variance), images.shape[1] - size)
        step = max(1, len(images) // _ENOUGH)
        for part, weights in zip(images[::step].split(_CHUNK), variance[:, ::step].split(_CHUNK, 1), strict=True):
            head = part[:, :size]
            leading.addmm_(weights, (head[:, :, None] * head[:, None]).flatten(1))
            trailing.addmm_(weights, part[:, size:].square())
        total = _totals(variance[:, ::step])[:, None]
        self._trailing = trailing / total
        self._leading = leading.double().unflatten(1, (size, size)) / total[:, None]
        self._leading.diagonal(dim1=1, dim2=2).mul_(1 + 1e-5)  # no rounding makes it indefinite
        self.least = least  # eigenvalue of the preconditioned Hessian: a guess until `learn`
        # in iterations: all but the products of coordinates is work for each class
        self._cost = size**2 / images.shape[1] / 2 * (1 + 15 / len(variance)) / step
        self._w, self._total = math.nan, total
        self._excess = 0  # iterations beyond those that a good one takes

    def prepare(self, w: float, variance: Tensor) -> None:
        """Makes it one for strength w and for variances (C, N) that are others by now, but over images much alike."""
        total = _totals(variance)[:, None]
        if w == self._w and float((total / self._total).log().abs().max()) < 0.5:
            return
        self._w, self._total = w, total
        ridge = 2 * w * torch.eye(self._leading.shape[1], dtype=torch.float64)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._leading * total[:, None] + ridge))
        self._inverse, self._rest = inverse.to(variance.dtype), (self._trailing * total + 2 * w).to(variance.dtype)

    def __call__(self, gradient: Tensor) -> Tensor:
        """(C, R), roughly the inverse Hessian times the gradient; sums to zero over classes as gradients do."""
        head, tail = gradient[:, :_LEADING], gradient[:, _LEADING:]
        found = torch.cat(((self._inverse * head[:, None]).sum(2), tail / self._rest), 1)
        return found - found.mean(0)

    def learn(self, lengths: list[float], ratios: list[float]) -> None:
        """Takes the least eigenvalue from the coefficients of a run of conjugate gradients, which are Lanczos' too."""
        inverse = torch.tensor(lengths, dtype=torch.float64).reciprocal()
        ratio = torch.tensor(ratios, dtype=torch.float64)[: len(lengths) - 1].clamp(min=0)
        diagonal, beside = inverse.clone(), ratio.sqrt() * inverse[:-1]
        diagonal[1:] += ratio * inverse[:-1]
        lanczos = diagonal.diag() + beside.diag(1) + beside.diag(-1)
        found = max(1e-5, float(torch.linalg.eigvalsh(lanczos)[0]))
        self.least = min(found, self.least)  # what short runs see is too large
        self._excess += max(0, len(lengths) - 4)

    @property
    def outdated(self) -> bool:
        """Whether a new one would have been cheaper."""
        return self._excess > self._cost


def _totals(variance: Tensor) -> Tensor:
    return variance.sum(1, dtype=torch.float64).clamp(min=1e-30)


def with_ones(features: Tensor) -> Tensor:
    """Features (N, D) with a one as the last: (N, R) float64."""
    return torch.cat((features.double(), torch.ones(len(features), 1, dtype=torch.float64)), 1)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))
