"""Multinomial logistic regression for many ridge strengths, each with an estimate of its distance from the optimum.

Letters: N images, C classes, D features, R = D + 1 coordinates (the last feature is a one, for the bias).

The objective is the sum of cross entropies + w * (|weights|^2 + |bias|^2). Newton's method, with
steps by preconditioned conjugate gradients (Nocedal and Wright, Numerical Optimization, 2006, chapter 7), runs from the
largest w, where the problem is easy, to the smallest; each fit starts at an extrapolation of the fits before it. At
small w, where the objective is far from quadratic, a step ends as soon as its quadratic model does.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.sources.raw import evenly_spaced
from .preconditioner import Preconditioner

_ROWS = 1024  # smallest number of images for computing the axes
_SMALL = 100_000  # feature values; below this, dispatch takes longer than arithmetic
_CHUNK = 1024  # images at once, so that they are read from memory only once
_STEPS, _INNER = 100, 200  # largest numbers of Newton steps per fit and of iterations per step, rarely reached
_CHECKED = (8, 16, 32, 64, 128)  # iterations of a step after which its quadratic model is compared with the objective
_NEGLIGIBLE = 2.0**40  # times the smallest normal number: smaller probabilities change no sum
_ITERATIONS = 500  # after so many in a fit, no further step is taken; usual features need fewer than 40


class Fit(NamedTuple):
    """A minimiser of the objective."""

    strength: float  # w
    weights: Tensor  # (C, R) float64, the bias last
    objective: float
    gap: float  # distance of the objective from the optimum, estimated from gradient and curvature
    undecided: float  # sum of p * (1 - p) over images and classes

    @property
    def spread(self) -> float:
        """The root mean square change of undecided images' logits that the gap allows."""
        return math.sqrt(2 * self.gap / self.undecided)

    def gap_for(self, spread: float) -> float:
        """Returns the gap relative to the objective that allows this spread."""
        return spread**2 * self.undecided / 2 / self.objective


class Point(NamedTuple):
    """The current point of the iteration."""

    weights: Tensor  # (C, R) along the axes
    logits: Tensor  # (C, N)
    residual: Tensor  # (C, N) p minus the one-hot label
    p: Tensor  # (C, N) probabilities
    variance: Tensor  # (C, N) p * (1 - p)
    loss: float  # sum of cross entropies

    def objective(self, w: float) -> float:
        """Returns the loss plus the ridge penalty of strength w."""
        return self.loss + w * _dot(self.weights, self.weights)


class Logistic:
    """Logistic regression of images with features (N, D) and labels (N,) int64 below `classes`.

    All coordinates are along the features' principal axes, which changes neither norms nor optima. Along these axes a
    preconditioner that is full in the leading coordinates and diagonal in the rest works well, and float32 resolves the
    trailing coordinates, which it couldn't next to a large mean. By default small problems use float64, which costs
    nothing there and converges even at tolerance 0.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int, dtype: torch.dtype | None = None):
        dtype = dtype or (torch.float64 if features.numel() < _SMALL else torch.float32)
        sample = with_ones(features[evenly_spaced(len(features), max(_ROWS, 2 * features.shape[1]))])
        self._axes = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)  # (R, R) float64, leading first
        images = torch.cat([(with_ones(part) @ self._axes).to(dtype) for part in features.split(_CHUNK)])
        self._hold(images, labels[None], classes)

    def _hold(self, images: Tensor, labels: Tensor, classes: int) -> None:
        self._images, self._labels, self._classes = images, labels, classes  # (N, R), (1, N)
        self._preconditioner: Preconditioner | None = None
        self._iterations = 0  # of conjugate gradients so far

    def first(self, count: int) -> "Logistic":
        """Returns the regression of the first `count` images alone, which shares their memory."""
        part = object.__new__(Logistic)
        part._axes = self._axes
        part._hold(self._images[:count], self._labels[:, :count], self._classes)
        return part

    def path(
        self, strengths: Sequence[float], tolerance: float, sufficient: Callable[[Fit], float] | None = None
    ) -> dict[float, Fit]:
        """Returns fits for all strengths, with gap <= tolerance * objective unless that takes `_ITERATIONS`.

        Fits run from the largest strength to the smallest. `sufficient` takes each and returns a tolerance for the
        next, which is used if it is larger.
        """
        found: dict[float, Fit] = {}
        last: list[tuple[float, Point]] = []
        enough = tolerance
        for w in sorted(strengths, reverse=True):
            point, found[w] = self._minimise(w, self._foreseen(w, last), enough)
            last = [*last[-2:], (w, point)]
            if sufficient is not None:
                enough = max(tolerance, sufficient(found[w]))
        return found

    def fit(self, w: float, start: Tensor, tolerance: float) -> Fit:
        """Returns a fit started at weights (C, R) of other images or another strength, or at zero if that is better."""
        start = start - start.mean(0)  # the optimum's weights sum to zero over classes; steps preserve that sum
        given = self._at((start @ self._axes).to(self._images.dtype))
        self._preconditioner = None  # an existing one is for another strength
        return self._minimise(w, min(given, self._zero(), key=lambda point: point.objective(w)), tolerance)[1]

    def _at(self, weights: Tensor, logits: Tensor | None = None) -> Point:
        """Returns the point at some weights; float32 keeps the digits of losses and probabilities down to 1e-25.

        Logits are taken relative to the label's own, because 1 - p loses its digits where p is nearly one.
        """
        logits = weights @ self._images.T if logits is None else logits
        others = (logits - logits.gather(0, self._labels)).scatter_(0, self._labels, -math.inf)
        loss = F.softplus(torch.logsumexp(others, 0), threshold=40)
        hit, missed = (-loss).exp()[None], -torch.expm1(-loss)[None]
        p = (others - loss).exp_()  # zero for the label so far
        for probability in (p, missed):  # because products of denormal numbers are slow
            probability.masked_fill_(probability < _NEGLIGIBLE * torch.finfo(p.dtype).tiny, 0)
        residual = p.scatter(0, self._labels, -missed)
        variance = (p * (1 - p)).scatter_(0, self._labels, hit * missed)
        p.scatter_(0, self._labels, hit)
        return Point(weights, logits, residual, p, variance, float(loss.double().sum()))

    def _zero(self) -> Point:
        return self._at(self._images.new_zeros(self._classes, self._images.shape[1]))

    def _foreseen(self, w: float, last: list[tuple[float, Point]]) -> Point:
        """Returns the best of the extrapolations of the last points as polynomials of degree 0, 1 and 2 in log w.

        A higher degree follows the path closely, but amplifies the distances of the points from it.
        """
        candidates = [self._zero()] if not last else []
        for first in range(len(last)):
            used = last[first:]
            shares = [math.prod(math.log(w / u) / math.log(v / u) for u, _ in used if u != v) for v, _ in used]
            weights, logits = (
                torch.stack([share * tensor for share, tensor in zip(shares, tensors, strict=True)]).sum(0)
                for tensors in ([point.weights for _, point in used], [point.logits for _, point in used])
            )
            candidates.append(self._at(weights, logits))
        return self._at(min(candidates, key=lambda point: point.objective(w)).weights)  # without the logits' rounding

    def _minimise(self, w: float, point: Point, tolerance: float) -> tuple[Point, Fit]:
        """Runs Newton's method until the gap is small enough, rounding stops its decrease, or it takes too long."""
        least, stalled, before, expected = math.inf, 0, self._iterations, math.inf
        for _ in range(_STEPS):
            inverse = self._inverse(w, point)
            gradient = point.residual @ self._images + 2 * w * point.weights
            step = inverse(gradient)
            gap = min(expected, max(0.0, _dot(gradient, step)) / 2 / inverse.least)
            objective = point.objective(w)
            stalled = stalled + 1 if gap > least / 2 else 0
            if gap <= tolerance * objective or (stalled == 3 and gap < 1e-6 * objective):
                break
            if self._iterations - before >= _ITERATIONS:
                break
            least = min(least, gap)
            point, expected = self._newton(w, point, gradient, step, inverse, tolerance * objective)
        undecided = max(float(point.variance.double().sum()), 1e-30)
        return point, Fit(w, point.weights.double() @ self._axes.T, objective, gap, undecided)

    def _inverse(self, w: float, point: Point) -> "Preconditioner":
        """Returns a preconditioner for w: the existing one, until it has cost as many iterations as a new one would."""
        inverse = self._preconditioner
        if inverse is None or inverse.outdated:
            inverse = Preconditioner(self._images, point.variance, min(0.5, 1.5 * inverse.least) if inverse else 0.5)
        inverse.prepare(w, point.variance)
        self._preconditioner = inverse
        return inverse

    def _newton(
        self, w: float, point: Point, gradient: Tensor, step: Tensor, inverse: "Preconditioner", target: float
    ) -> tuple[Point, float]:
        """Returns the end of one step and its gap according to the quadratic model.

        `step` is the preconditioned gradient (C, R), `target` the desired gap.
        """
        moved, shifts = torch.zeros_like(step), torch.zeros_like(point.logits)
        residual, ahead, rz = gradient.clone(), -step, _dot(gradient, step)
        gained, left, lengths, ratios = 0.0, math.inf, list[float](), list[float]()
        while len(lengths) < _INNER:
            hessian, logits = self._curved(w, point, ahead)
            if rz <= 0 or (curvature := _dot(ahead, hessian)) <= 0:
                break  # only rounding is left
            length = rz / curvature
            lengths.append(length)
            moved += length * ahead
            shifts += length * logits
            residual += length * hessian
            gained += length * rz / 2
            step = inverse(residual)
            before, rz = rz, _dot(residual, step)
            left = rz / 2 / min(inverse.least, 1 / max(lengths))
            if left <= max(0.05 * gained, 0.15 * target):
                break
            if len(lengths) in _CHECKED and self._gain(w, point, moved, shifts) < gained / 2:
                break
            ratios.append(rz / before)
            ahead = ratios[-1] * ahead - step
        self._iterations += len(lengths)
        if lengths:
            inverse.learn(lengths, ratios)
        end = self._along(w, point, moved, shifts, _dot(gradient, moved))
        return end, left + abs(gained - (point.objective(w) - end.objective(w)))

    def _gain(self, w: float, point: Point, moved: Tensor, shifts: Tensor) -> float:
        """Returns the decrease of the objective after a move (C, R) that changes the logits by shifts (C, N)."""
        return point.objective(w) - self._at(point.weights + moved, point.logits + shifts).objective(w)

    def _curved(self, w: float, point: Point, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the Hessian at a point times a direction (C, R), and the direction's change of the logits (C, N)."""
        product, logits = 2 * w * ahead, torch.empty_like(point.p)
        parts = (self._images.split(_CHUNK), self._labels.split(_CHUNK, 1))
        for images, labels, p, out in zip(*parts, point.p.split(_CHUNK, 1), logits.split(_CHUNK, 1), strict=True):
            torch.mm(ahead, images.T, out=out)
            relative = out - out.gather(0, labels)  # as in `_at`
            product.addmm_(p * (relative - (p * relative).sum(0)), images)
        return product, logits

    def _along(self, w: float, point: Point, moved: Tensor, shifts: Tensor, slope: float) -> Point:
        """Returns the end of the step, which is halved until it satisfies Armijo's rule."""
        start, share = point.objective(w), 1.0
        while True:
            end = self._at(point.weights + share * moved, point.logits + share * shifts)
            if end.objective(w) <= start * (1 + 1e-7) + 1e-4 * share * slope or share < 1e-6:
                return end
            share /= 2


def with_ones(features: Tensor) -> Tensor:
    """Returns features (N, D) with a one appended: (N, R) float64."""
    return torch.cat((features.double(), torch.ones(len(features), 1, dtype=torch.float64)), 1)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))
