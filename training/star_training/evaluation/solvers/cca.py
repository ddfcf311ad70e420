"""Canonical correlations of two embeddings and the effective rank of one.

Letters: N images, D, E widths of two embeddings, R rank, G groups of images.
"""

import math
from collections.abc import Callable

import torch
from scipy.special import stdtrit
from torch import Tensor

from ..metrics import Estimate

_ROUNDING = 1e-6  # relative to an embedding's norm: smaller variation is float32 noise
_GROUPS = 20


def correlations(a: Tensor, b: Tensor, variance: float = 1.0) -> Tensor:
    """Returns the canonical correlations of (N, D) and (N, E), float64, largest first, as many as the smaller rank.

    With `variance` below 1, each embedding is first reduced to the fewest principal components that hold this share of
    its variance (SVCCA, Raghu et al., 2017). Constant and linearly dependent dimensions don't count towards the rank.
    """
    qa, qb = _basis(a, variance), _basis(b, variance)
    return torch.linalg.svdvals(qa.T @ qb).clamp(max=1)


def _basis(x: Tensor, variance: float) -> Tensor:
    """Returns orthonormal columns (N, R) that span the centred x (N, D)."""
    x = x.double()
    q, r = torch.linalg.qr(x - x.mean(0))
    u, sizes, _ = torch.linalg.svd(r)
    rank = int((sizes > _ROUNDING * x.norm()).sum())
    if rank == 0:
        raise ValueError("an embedding is the same for all images: it has no correlation with anything")
    held = sizes.square().cumsum(0)
    fewest = int((held < variance * held[-1]).sum()) + 1
    return q @ u[:, : min(rank, fewest)]


def rank_me(x: Tensor) -> Tensor:
    """Returns exp(entropy of the singular values' shares) of (N, D), not centred: between 1 and min(N, D).

    Source: RankMe (Garrido et al., ICML 2023), eq. 1, without its epsilon: 0 log 0 is 0.
    """
    sizes = torch.linalg.svdvals(torch.linalg.qr(x.double(), mode="r").R)
    if not sizes.any():
        raise ValueError("all features are 0, so they have no rank")
    shares = sizes / sizes.sum()
    return torch.special.entr(shares).sum().exp()


def jackknife(measure: Callable[[Tensor], Tensor], count: int, seed: int) -> Estimate:
    """Returns measure(all rows) with the interval from leaving out one of 20 random groups of images at a time.

    The interval estimates the variation between sets of as many images, not the distance to the value for infinitely
    many. A bootstrap isn't used, because rows drawn twice correlate with themselves, which raises correlations.
    """
    value = float(measure(torch.arange(count)))
    if count < 2 * _GROUPS:
        return Estimate(value)
    groups = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tensor_split(_GROUPS)
    without = torch.stack([measure(torch.cat((*groups[:g], *groups[g + 1 :]))) for g in range(_GROUPS)])
    error = math.sqrt((_GROUPS - 1) / _GROUPS * float((without - without.mean()).square().sum()))
    half = float(stdtrit(_GROUPS - 1, 0.975)) * error  # Student's quantile
    return Estimate(value, value - half, value + half)
