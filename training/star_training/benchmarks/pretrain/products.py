"""Convolutions and matrix products: how many multiply-adds a computation has, and how many a machine does a second."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .clock import now

# Sides of the square matrices whose product measures the rate, and the seconds from which a product is large enough.
# Where bfloat16 is emulated, a side of 2048 takes a minute.
_SIDES, _ENOUGH = (512, 1024, 2048, 4096, 8192), 0.05
_TRIALS = 4


def multiply_adds(compute: Callable[[], Any]) -> int:
    """Returns the multiply-adds of the convolutions and matrix products that `compute` runs, backward passes included.

    As PyTorch counts them: a convolution's products with its zero padding count, element-wise operations don't.
    """
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops() // 2


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Returns the multiply-adds per second of a large square matrix product, the best of several trials."""
    for side in _SIDES:
        a, b = torch.rand(2, side, side, device=device).to(dtype)
        found = []
        for _ in range(_TRIALS):
            start = now(device)
            torch.mm(a, b)
            found.append(now(device) - start)
        if min(found) >= _ENOUGH:
            break
    return side**3 / min(found)
