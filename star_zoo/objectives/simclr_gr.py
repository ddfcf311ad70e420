"""SimCLR with a gradient regularizer (Foster, Pukdee & Rainforth, ICLR 2021, arXiv 2010.09515).

Letters: B images, D features, O embedding size, P augmentation parameters. Formulas and defaults after the authors'
code (ae-foster/invclr, MIT), which regularises the backbone's features, not the projection. The head is our SimCLR's.
In a short trial on spirographs the regularizer was neutral or harmful; the authors train for about 10,000 steps.
`torch.compile` leaves the whole forward pass out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..augmentations import Policy
from ..batch import Batch
from ..encoder import Encoder
from ..losses import nt_xent
from . import _papers
from ._gradient import GradientRegularizer
from .simclr import SimCLR


class SimCLRGR(SimCLR):
    """SimCLR plus the regularizer of the first view's features; needs ColorJitter, Blur or Spirograph in the policy."""

    papers = (_papers.SIMCLR_GR, _papers.SIMCLR)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.5,  # of nt_xent
        regularizer_weight: float = 0.1,  # lambda, weight of the regularizer; 0.01 for spirographs in the authors' code
        clamp: float = 1.0,  # largest mean that has a gradient; 1000 for spirographs in the authors' code
        warmup: float = 0.1,  # fraction of the steps over which the weight grows from 0; our addition
        regularized: Sequence[str] | None = None,  # regularized fields; None: all of differentiable augmentations
        **shared: Any,
    ):
        super().__init__(num_features, policy, temperature=temperature, **shared)
        self.regularizer = GradientRegularizer(policy, regularizer_weight, clamp, warmup, regularized)

    @torch.compiler.disable  # type: ignore[untyped-decorator] # compiled graphs can't be differentiated twice
    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        first, second = batch.params
        # the graph is needed in evaluation too; fused attention has no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            first = first.detach().requires_grad_()
            batch = batch._replace(params=[first, second])
            features = encoder([encoder.augment(batch, view) for view in range(2)])
            gradient = self.regularizer(features[0], first, second)
        z1, z2 = map(self.heads, features)
        return {"invariant": nt_xent(z1, z2, self.temperature), "gradient": gradient}

    def after_step(self, encoder: Encoder, progress: float) -> None:
        self.regularizer.after_step(progress)
