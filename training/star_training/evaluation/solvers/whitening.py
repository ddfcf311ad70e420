"""Whitening: coordinates in which a set of features has mean 0 and covariance 1.

Letters: N images, D features, R dimensions that vary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_ENOUGH = 10  # images a dimension for the sample covariance; below, it is shrunk
_FLAT = 1e-10  # of the largest variance: what varies less is mostly float32's noise


class Whitening(NamedTuple):
    """x -> (x - mean) @ axes, with axes @ axes^T the (pseudo-)inverse of the covariance."""

    mean: Tensor  # (D,)
    axes: Tensor  # (D, R)
    shrinkage: float  # 0: the sample covariance; 1: a multiple of the identity

    def __call__(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., R), float64."""
        return (features.double() - self.mean) @ self.axes


def whitening(features: Tensor) -> Whitening:
    """Of features (N, D). With fewer than 10 images a dimension the covariance is shrunk as Ledoit & Wolf (2004) do.

    Dimensions that never vary are left out. Raises ValueError where none does.
    """
    count, width = features.shape
    mean = features.double().mean(0)
    x = features.double() - mean
    covariance = x.T @ x / count
    shrinkage = ledoit_wolf(x, covariance) if count < _ENOUGH * width else 0.0
    variances, axes = torch.linalg.eigh(covariance)
    kept = variances > _FLAT * variances[-1].clamp(min=torch.finfo(torch.float64).tiny)
    if not kept.any():
        raise ValueError(f"all {count} images have the same features, so there is nothing to measure distances by")
    shrunk = (1 - shrinkage) * variances[kept] + shrinkage * variances.mean()
    return Whitening(mean, axes[:, kept] / shrunk.sqrt(), shrinkage)


def ledoit_wolf(x: Tensor, covariance: Tensor) -> float:
    """How much of a multiple of the identity brings the covariance (D, D) of centred x (N, D) nearest to the truth."""
    count, width = x.shape
    target = covariance.diagonal().mean()
    distance = (covariance - target * torch.eye(width, dtype=x.dtype)).square().sum()
    noise = (x.square().sum(1).square().mean() - covariance.square().sum()) / count
    return float((noise / distance).clamp(0, 1)) if distance > 0 else 1.0
