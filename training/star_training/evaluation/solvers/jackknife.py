"""The jackknife: the interval of a number that is measured on all images together. Letters: G groups of images."""

import math
from collections.abc import Callable

import torch
from scipy.special import stdtrit
from torch import Tensor

from ..metrics import Estimate

_GROUPS = 20


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
