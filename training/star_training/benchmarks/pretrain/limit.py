"""The least time of a step on this machine: the backbone on ready tensors, and the heads' products at its full rate.

Letters: B images, S view size.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...evaluation.features import evaluating
from .clock import now

VIEWS = 3
_FORWARD_AND_BACKWARD = 3  # times the forward pass, because a product has two gradients of the same cost
# Sides of the square matrices whose product measures the rate, and the seconds from which a product is large enough.
# Where bfloat16 is emulated, a side of 2048 takes a minute.
_SIDES, _ENOUGH = (512, 1024, 2048, 4096, 8192), 0.05


class Limit:
    """Forward and backward passes of `views` views of B images through a backbone, and the heads as one matrix product.

    It has no data, augmentation, loss or optimiser. Memory is channels last. `precision` "bf16" computes both parts in
    bfloat16, as training does.
    """

    name = "limit"

    def __init__(self, backbone: Any, multiply_adds: int, batch: int, pixels: int, precision: str, views: int = VIEWS):
        self.device = next(backbone.parameters()).device
        self.backbone = backbone.to(memory_format=torch.channels_last).train()
        self.multiply_adds = multiply_adds * batch * _FORWARD_AND_BACKWARD  # per step
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        images = torch.randn(views, batch, 3, pixels, pixels, device=self.device)
        self.views = [x.contiguous(memory_format=torch.channels_last) for x in images]
        self.rates: list[float] = []  # multiply-adds per second, one entry per measurement

    def seconds(self, steps: int) -> float:
        """Returns the seconds that some steps would take."""
        start = now(self.device)
        for _ in range(steps):
            self.step()
        passed = now(self.device) - start
        self.rates.append(product_rate(self.dtype, self.device))
        return passed + steps * self.multiply_adds / self.rates[-1]

    def step(self) -> None:
        """Runs the forward and backward pass of all views."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features = [self.backbone(x) for x in self.views]
        torch.autograd.backward(features, [torch.ones_like(f) for f in features])
        self.backbone.zero_grad()


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Returns the multiply-adds per second of a large square matrix product, the better of two trials."""
    for side in _SIDES:
        a, b = torch.rand(2, side, side, device=device).to(dtype)
        found = []
        for _ in range(2):
            start = now(device)
            torch.mm(a, b)
            found.append(now(device) - start)
        if min(found) >= _ENOUGH:
            break
    return side**3 / min(found)


def head_multiply_adds(objective: Any) -> int:
    """Returns the multiply-adds of one image's heads: experts, router, mix of three views, shift predictor of two."""
    device = next(objective.parameters()).device
    features = torch.zeros(1, objective.config["num_features"], device=device)
    params = torch.zeros(1, len(objective.policy.fields), device=device)
    with evaluating(objective), FlopCounterMode(display=False) as counter:
        z_eq = [objective.embed(features)["z_eq"] for _ in range(VIEWS)]
        for _ in range(VIEWS - 1):
            objective.predict(z_eq[0], params)
    return counter.get_total_flops() // 2
