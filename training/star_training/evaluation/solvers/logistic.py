"""Multinomial logistic regression for many ridge strengths, each with an estimate of its distance from the optimum.

Letters: N images, C classes, D features, R = D + 1 coordinates (the last feature is a one, for the bias).

The objective is the sum of cross entropies + w * (|weights|^2 + |bias|^2). Newton's method, with
steps by preconditioned conjugate gradients (Nocedal and Wright, Numerical Optimization, 2006, chapter 7), runs from the
largest w, where the problem is easy, to the smallest; each fit starts at an extrapolation of the fits before it. At
small w, where the objective is far from quadratic, a step ends as soon as its quadratic model does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.sources.raw import evenly_spaced
from .preconditioner import Preconditioner

_ROWS = 1024  # smallest number of images for computing the axes
_SMALL = 100_000  # feature values; below this, dispatch takes longer than arithmetic
_CHUNK = 1024  # images at once, so that they are read from memory only once
_PART = 65_536  # probabilities at once, but at least those of `_CHUNK` images, so that they stay in the cache
_DEGREE = 2  # of the polynomials by which a path is extrapolated
_PATIENCE = 32  # iterations of a fit after which all of the tolerance that is sufficient is accepted, not half of it
_STEPS, _INNER = 100, 200  # largest numbers of Newton steps per fit and of iterations per step, rarely reached
_CHECKED = (8, 16, 32, 64, 128)  # iterations of a step after which its quadratic model is compared with the objective
_NEGLIGIBLE = 2.0**40  # times the smallest normal number: smaller probabilities change no sum
_ITERATIONS = 500  # after so many in a fit, no further step is taken; usual features need fewer than 40


class Fit(NamedTuple):
    """An approximate minimiser of the objective."""

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
    ) -> Iterator[Fit]:
        """Yields a fit for each strength, from the largest to the smallest, each computed when it is asked for.

        The gap of a fit is at most tolerance * objective, unless that takes `_ITERATIONS`. `sufficient` takes an
        unfinished fit, after the fits before it were yielded, and returns a relative gap that is enough for it. A fit
        ends at half of that, or at all of it after `_PATIENCE` iterations.
        """
        last: list[tuple[float, Tensor]] = []  # weights of the last fits, the latest first
        for w in sorted(strengths, reverse=True):
            point, fit = self._minimise(w, self._foreseen(w, last), tolerance, sufficient)
            last = [(w, point.weights), *last[:_DEGREE]]
            yield fit

    def fit(self, w: float, start: Tensor, tolerance: float) -> Fit:
        """Returns a fit started at weights (C, R) of other images or another strength, or at zero if that is better."""
        start = start - start.mean(0)  # the optimum's weights sum to zero over classes; steps preserve that sum
        given = self._at((start @ self._axes).to(self._images.dtype))
        self._preconditioner = None  # an existing one is for another strength
        return self._minimise(w, min(given, self._zero(), key=lambda point: point.objective(w)), tolerance)[1]

    def _at(self, weights: Tensor, logits: Tensor | None = None) -> Point:
        """Returns the point at weights (C, R), whose logits (C, N) are computed unless given."""
        logits = weights @ self._images.T if logits is None else logits
        residual, p, variance = (torch.empty_like(logits) for _ in range(3))
        loss, rows = 0.0, max(_CHUNK, _PART // self._classes)
        parts = (tensor.split(rows, 1) for tensor in (logits, self._labels, residual, p, variance))
        for of_part, labels, *outs in zip(*parts, strict=True):
            loss += _derivatives(of_part, labels, outs)
        return Point(weights, logits, residual, p, variance, loss)

    def _zero(self) -> Point:
        return self._at(self._images.new_zeros(self._classes, self._images.shape[1]))

    def _foreseen(self, w: float, last: list[tuple[float, Tensor]]) -> Point:
        """Returns an extrapolation of the last weights as a polynomial in log w.

        Its degree is lowered as long as that lowers the objective: a higher degree follows the path closely, but
        amplifies the distances of the points from it.
        """
        best = self._zero() if not last else self._extrapolated(w, last)
        for count in range(len(last) - 1, 0, -1):
            lower = self._extrapolated(w, last[:count])
            if lower.objective(w) >= best.objective(w):
                break
            best = lower
        return best

    def _extrapolated(self, w: float, known: list[tuple[float, Tensor]]) -> Point:
        shares = (math.prod(math.log(w / u) / math.log(v / u) for u, _ in known if u != v) for v, _ in known)
        terms = [share * weights for share, (_, weights) in zip(shares, known, strict=True)]
        return self._at(torch.stack(terms).sum(0))

    def _minimise(
        self, w: float, point: Point, tolerance: float, sufficient: Callable[[Fit], float] | None = None
    ) -> tuple[Point, Fit]:
        """Runs Newton's method until the gap is small enough, rounding stops its decrease, or it takes too long.

        The gap is small enough by `tolerance`, or by `sufficient` as in `path`.
        """
        least, stalled, before, expected, enough = math.inf, 0, self._iterations, math.inf, math.inf
        for _ in range(_STEPS):
            inverse = self._inverse(w, point)
            gradient = point.residual @ self._images + 2 * w * point.weights
            step = inverse(gradient)
            gap = min(expected, max(0.0, _dot(gradient, step)) / 2 / inverse.least)
            objective = point.objective(w)
            stalled = stalled + 1 if gap > least / 2 else 0
            if gap <= tolerance * objective or (stalled == 3 and gap < 1e-6 * objective):
                break
            used = self._iterations - before
            if gap <= enough * objective:  # `sufficient` takes long for few images, so that it is asked again only here
                enough = sufficient(self._fit(w, point, gap)) if sufficient else 0.0
            aim = enough / 2  # because extrapolations amplify the distances of the points from the path
            settled = gap <= objective * (enough if used >= _PATIENCE else aim)
            if used and (settled or used >= _ITERATIONS):  # before the first step, the gap is only guessed
                break
            least = min(least, gap)
            target = max(tolerance, aim) * objective
            point, expected = self._newton(w, point, gradient, step, inverse, target)
        return point, self._fit(w, point, gap)

    def _fit(self, w: float, point: Point, gap: float) -> Fit:
        undecided = max(float(point.variance.sum(dtype=torch.float64)), 1e-30)
        return Fit(w, point.weights.double() @ self._axes.T, point.objective(w), gap, undecided)

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
            relative = out - out.gather(0, labels)  # as in `_derivatives`
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


def _derivatives(logits: Tensor, labels: Tensor, outs: Sequence[Tensor]) -> float:
    """Writes residual, p and variance (C, N) of logits (C, N) into `outs`; returns the sum of cross entropies.

    Float32 keeps the digits of losses and probabilities down to 1e-25, because logits are taken relative to the label's
    own: 1 - p loses its digits where p is nearly one.
    """
    residual, p, variance = outs
    least = _NEGLIGIBLE * torch.finfo(p.dtype).tiny  # products of denormal numbers are slow
    others = (logits - logits.gather(0, labels)).scatter_(0, labels, -math.inf)
    highest = others.amax(0).clamp_(min=torch.finfo(p.dtype).min)
    shares = others.sub_(highest).clamp_(min=math.log(least)).exp_()  # of the other classes, relative to the highest
    total = shares.sum(0)
    loss = F.softplus(highest + total.log(), threshold=40)
    hit, missed = (-loss).exp()[None], -torch.expm1(-loss)[None]
    for probability in (hit, missed):
        probability.masked_fill_(probability < least, 0)
    scale = missed / total
    torch.mul(shares.masked_fill_(shares < least / scale, 0), scale, out=p)
    torch.mul(p, 1 - p, out=variance).scatter_(0, labels, hit * missed)
    residual.copy_(p).scatter_(0, labels, -missed)
    p.scatter_(0, labels, hit)
    return float(loss.double().sum())


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))
