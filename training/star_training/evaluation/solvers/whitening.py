"""Whitening: coordinates in which a set of features has mean 0 and identity covariance.

Letters: N images, D features, R dimensions that vary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_ENOUGH = 10  # images per dimension for the sample covariance; with fewer, it is shrunk
_FLAT = 1e-10  # relative to the largest variance: smaller ones are mostly float32 noise


class Whitening(NamedTuple):
    """x -> (x - mean) @ axes, with axes @ axes^T the (pseudo-)inverse of the covariance."""

    mean: Tensor  # (D,)
    axes: Tensor  # (D, R)
    shrinkage: float  # 0: the sample covariance; 1: a multiple of the identity

    def __call__(self, features: Tensor) -> Tensor:
        """Returns whitened features, (..., D) -> (..., R), float64."""
        return (features.double() - self.mean) @ self.axes


def whitening(features: Tensor) -> Whitening:
    """Returns the whitening of features (N, D).

    With fewer than 10 images per dimension, the covariance is shrunk as by Ledoit & Wolf (2004). Dimensions without
    variance are left out. Raises ValueError if none has any.
    """
    count, width = features.shape
    mean = features.double().mean(0)
    x = features.double() - mean
    covariance = x.T @ x / count
    variances, axes = torch.linalg.eigh(covariance)
    kept = variances > _FLAT * variances[-1].clamp(min=torch.finfo(torch.float64).tiny)
    if not kept.any():
        raise ValueError(f"all {count} images have the same features, so distances can't be measured")
    shrinkage = 0.0
    if count < _ENOUGH * width:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(x.numpy(), assume_centered=True, block_size=width))
    shrunk = (1 - shrinkage) * variances[kept] + shrinkage * variances.mean()
    return Whitening(mean, axes[:, kept] / shrunk.sqrt(), shrinkage)
