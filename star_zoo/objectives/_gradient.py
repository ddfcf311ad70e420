"""The gradient regularizer of Foster, Pukdee & Rainforth (ICLR 2021, arXiv 2010.09515), a term for any objective.

Letters: B images, D features, N draws, P augmentation parameters.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..augmentations import Policy
from ..losses import gather_with_grad


class GradientRegularizer(nn.Module):
    """Penalises how fast the direction of the features changes with the params of differentiable augmentations.

    With h the features at unit length and e random signs, g is the gradient of <e, h> with respect to an image's params
    a. The term is the mean of <g, a' - a>^2 over images and other draws a', which estimates the mean of
    |h(a') - h(a)|^2 to first order; a mean above `clamp` has no gradient. The paper draws a' afresh, 100 of them for
    each image; here they are the params of another view of all images, which are as independent of a. The per-column
    restriction by `fields` and the warm-up of the weight are our additions. The gradient is differentiated again, which
    compiled graphs do not support; with SyncBatchNorm it is untested.
    """

    columns: Tensor
    strength: Tensor

    def __init__(self, policy: Policy, weight: float, clamp: float, warmup: float, fields: Sequence[str] | None):
        super().__init__()
        for name, value in (("regularizer_weight", weight), ("clamp", clamp)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must not be negative")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is {warmup}; it must be a fraction of the steps, from 0 to 1")
        known = [field for a in policy.augmentations if a.differentiable for field in a.fields]
        if not known:
            used = ", ".join(type(a).__name__ for a in policy.augmentations)
            raise ValueError(f"the policy has {used}; the regularizer needs ColorJitter, Blur or Spirograph")
        for field in fields or ():
            if field not in known:
                raise ValueError(not_found("differentiable field", field, known))
        self.weight, self.clamp, self.warmup = weight, clamp, warmup
        chosen = [float(field in (fields or known)) for field in policy.fields]
        self.register_buffer("columns", torch.tensor(chosen))
        self.register_buffer("strength", torch.tensor(0.0 if warmup else 1.0))  # the share of the weight that applies

    def forward(self, features: Tensor, params: Tensor, draws: Tensor) -> Tensor:
        """Returns the weighted term, float32: features (B, D), computed from params (B, P); draws (N, P) -> scalar.

        The params must require a gradient; the features must have been computed with gradients enabled.
        """
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            h = F.normalize(features.float(), dim=1)
            signs = _signs(params, h.shape[1]).to(h.dtype)
            (g,) = torch.autograd.grad((signs * h).sum(), params, create_graph=True, materialize_grads=True)
            g = g * self.columns
            change = g @ gather_with_grad(draws).T - (g * params).sum(1, keepdim=True)  # <g, a' - a>: (B, N)
            return self.weight * self.strength * change.square().mean().clamp(max=self.clamp)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Sets the warm-up's share of the weight; `progress` is the fraction of all steps."""
        self.strength.fill_(min(1.0, progress / self.warmup) if self.warmup else 1.0)


def _signs(params: Tensor, width: int) -> Tensor:
    """Returns signs (B, D) int64, a hash of each image's params (B, P), which are random already.

    Unlike drawn signs, they do not depend on the number of processes.
    """
    bits = params.detach().float().contiguous().view(torch.int32).long()  # of each param
    odd = 2 * torch.arange(params.shape[1], device=params.device) + 1
    key = (bits * odd).sum(1, keepdim=True) % 2147483647
    mixed = (key * 40503 + (key % 65521) * torch.arange(1, width + 1, device=params.device) * 2654435761) % 2147483647
    return ((mixed ^ (mixed >> 7) ^ (mixed >> 15)) & 1) * 2 - 1
