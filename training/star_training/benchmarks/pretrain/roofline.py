"""The roofline: the least time of our step, if all its multiply-adds ran as fast as one large matrix product."""

import torch

from .ours import Ours
from .products import multiply_adds, product_rate


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
