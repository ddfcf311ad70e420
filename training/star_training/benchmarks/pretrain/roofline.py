"""The roofline: the least time of our step, if all its multiply-adds ran as fast as one large matrix product."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .clock import now
from .ours import Ours

# Sides of the square matrices whose product measures the rate, and the seconds from which a product is large enough.
# Where bfloat16 is emulated, a side of 2048 takes a minute.
_SIDES, _ENOUGH = (512, 1024, 2048, 4096, 8192), 0.05
_TRIALS = 4


def multiply_adds(compute: Callable[[], Any]) -> int:
    """Returns the multiply-adds of the convolutions and matrix products that `compute` runs, backward passes included.

    As PyTorch counts them: a convolution's products with its zero padding count, except in gradients that
    `numerics.small_maps` computes as matrix products; element-wise operations don't.
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


class Roofline:
    """Our steps, with the rate of matrix products measured before and after each turn, because the speed varies.

    The rate is measured in the run's process, with its threads and its allocator. It is the highest of the rates in
    float32 and in the run's precision, because a processor that emulates bfloat16 is faster in float32. `precision` is
    "no" or "bf16".
    """

    name = Ours.name

    def __init__(self, ours: Ours, precision: str):
        self.ours, self.device = ours, ours.run.accelerator.device
        self.dtypes = {torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32}
        self.multiply_adds = multiply_adds(ours.step)  # per step, forward and backward; a real step is run
        self.rates: list[float] = []  # multiply-adds per second, one entry per turn

    def seconds(self, steps: int) -> float:
        """Returns the seconds of some steps of ours, and records the rate beside them."""
        before = self._rate()
        passed = self.ours.seconds(steps)
        self.rates.append(max(before, self._rate()))
        return passed

    def beside(self, seconds: list[dict[str, float]], steps: int) -> list[dict[str, float]]:
        """Returns the seconds by round, with those of the steps at the rate of the same round as "roofline"."""
        rates = self.rates[-len(seconds) :]  # without the warm-up's
        return [
            each | {"roofline": steps * self.multiply_adds / rate} for each, rate in zip(seconds, rates, strict=True)
        ]

    def _rate(self) -> float:
        return max(product_rate(dtype, self.device) for dtype in self.dtypes)
