"""An approximate inverse Hessian of logistic regression, for its conjugate gradients.

Letters: N images, C classes, R coordinates of an image, the leading K of them with large variance.
"""

import math

import torch
from torch import Tensor

_LEADING = 64  # K: in these coordinates the full curvature of each class is held
_ENOUGH = 2048  # images for computing it
_CHUNK = 1024  # images at once, so that they are read from memory only once


class Preconditioner:
    """An approximate inverse Hessian, separate for each class: full in the leading coordinates, diagonal in the rest.

    It takes images (N, R) and the variance (C, N) at some point. A class's distribution of variance over images is
    fixed at construction; `prepare` updates its total, which falls by orders of magnitude as the fit improves, and the
    ridge.
    """

    def __init__(self, images: Tensor, variance: Tensor, least: float):
        size = min(_LEADING, images.shape[1])
        trailing = images.new_zeros(len(variance), images.shape[1] - size)
        for part, weights in zip(images.split(_CHUNK), variance.split(_CHUNK, 1), strict=True):
            trailing.addmm_(weights, part[:, size:].square())
        total = _totals(variance)[:, None]
        self._trailing = trailing / total
        self._leading = torch.stack([_second_moment(images[:, :size], of_class) for of_class in variance])
        self._leading.diagonal(dim1=1, dim2=2).mul_(1 + 1e-5)  # keeps it positive definite despite rounding
        self.least = least  # smallest eigenvalue of the preconditioned Hessian: a guess until `learn`
        self._cost = 0.5 + size**2 * min(len(images), _ENOUGH) / images.numel()  # in iterations
        self._w, self._total = math.nan, total
        self._excess = 0  # iterations beyond those with a good preconditioner

    def prepare(self, w: float, variance: Tensor) -> None:
        """Adapts it to strength w and to the totals of new variances (C, N); their distribution over images is kept."""
        total = _totals(variance)[:, None]
        if w == self._w and float((total / self._total).log().abs().max()) < 0.5:
            return
        self._w, self._total = w, total
        ridge = 2 * w * torch.eye(self._leading.shape[1], dtype=torch.float64)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._leading * total[:, None] + ridge))
        self._inverse, self._rest = inverse.to(variance.dtype), (self._trailing * total + 2 * w).to(variance.dtype)

    def __call__(self, gradient: Tensor) -> Tensor:
        """Returns roughly the inverse Hessian times the gradient, (C, R); sums to zero over classes as gradients do."""
        head, tail = gradient[:, :_LEADING], gradient[:, _LEADING:]
        found = torch.cat(((self._inverse * head[:, None]).sum(2), tail / self._rest), 1)
        return found - found.mean(0)

    def learn(self, lengths: list[float], ratios: list[float]) -> None:
        """Estimates the smallest eigenvalue from conjugate gradient coefficients, which are also those of Lanczos."""
        inverse = torch.tensor(lengths, dtype=torch.float64).reciprocal()
        ratio = torch.tensor(ratios, dtype=torch.float64)[: len(lengths) - 1].clamp(min=0)
        diagonal, beside = inverse.clone(), ratio.sqrt() * inverse[:-1]
        diagonal[1:] += ratio * inverse[:-1]
        lanczos = diagonal.diag() + beside.diag(1) + beside.diag(-1)
        found = max(1e-5, float(torch.linalg.eigvalsh(lanczos)[0]))
        self.least = min(found, self.least)  # short runs overestimate it
        self._excess += max(0, len(lengths) - 4)

    @property
    def outdated(self) -> bool:
        """Whether a new preconditioner would have been cheaper."""
        return self._excess > self._cost


def _second_moment(images: Tensor, variance: Tensor) -> Tensor:
    """Returns the mean of x x^T over images (N, K) weighted by their variance (N,): (K, K) float64.

    Uses a systematic sample of large sets, drawn with probability proportional to the variance: at small strengths,
    nearly all of it belongs to a few hundred undecided images.
    """
    if len(images) > _ENOUGH:
        places = (torch.arange(_ENOUGH, dtype=torch.float64) + 0.5) / _ENOUGH
        cumulative = variance.cumsum(0, dtype=torch.float64)
        drawn = torch.searchsorted(cumulative, places * cumulative[-1]).clamp(max=len(images) - 1)
        images, variance = images[drawn], torch.ones_like(variance[drawn])
    total = variance.sum(dtype=torch.float64).clamp(min=1e-30)
    return ((images * variance[:, None]).T @ images).double() / total


def _totals(variance: Tensor) -> Tensor:
    return variance.sum(1, dtype=torch.float64).clamp(min=1e-30)
