"""The backbone alone on ready tensors, with the heads' products at the full rate of this machine.

Views pass in turn, so our step can be faster; the bound on it is in roofline.py.

Letters: B images, S view size.
"""

from typing import Any

import torch

from ...evaluation.features import evaluating
from .clock import now
from .roofline import multiply_adds, product_rate

VIEWS = 3
_FORWARD_AND_BACKWARD = 3  # times the forward pass, because a product has two gradients of the same cost


class BackboneAlone:
    """Forward and backward passes of `views` views of B images through a backbone, and the heads as one matrix product.

    It has no data, augmentation, loss or optimiser. `heads` are their multiply-adds for one image, forward. Memory is
    channels last. `precision` "bf16" computes both parts in bfloat16, as training does.
    """

    name = "backbone alone"

    def __init__(self, backbone: Any, heads: int, batch: int, pixels: int, precision: str, views: int = VIEWS):
        self.device = next(backbone.parameters()).device
        self.backbone = backbone.to(memory_format=torch.channels_last).train()
        self.multiply_adds = heads * batch * _FORWARD_AND_BACKWARD  # of the heads, per step
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


def head_multiply_adds(objective: Any) -> int:
    """Returns the multiply-adds of one image's heads: experts, router, mix of three views, shift predictor of two."""
    device = next(objective.parameters()).device
    features = torch.zeros(1, objective.config["num_features"], device=device)
    params = torch.zeros(1, len(objective.policy.fields), device=device)

    def forward() -> None:
        z_eq = [objective.embed(features)["z_eq"] for _ in range(VIEWS)]
        for _ in range(VIEWS - 1):
            objective.predict(z_eq[0], params)

    with evaluating(objective):
        return multiply_adds(forward)
