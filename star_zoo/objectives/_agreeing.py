"""Objectives whose terms are agreements of the last two views, with a momentum copy's targets where they need them.

Letters: B images, V views of an image, D features, O embedding size, P augmentation parameters.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..augmentations import Policy
from ..batch import Batch
from ..encoder import Encoder
from ..momentum import MomentumCopy
from ._agreements import Agreement
from ._base import FeatureObjective


class Agreeing(FeatureObjective):
    """Heads on pooled features, and the agreement of their embeddings; a subclass implements `plan` and `terms`."""

    def __init__(self, policy: Policy, heads: nn.Module, agree: Agreement):
        super().__init__(policy)
        self.heads = heads
        self.agree = agree

    def terms(
        self, features: list[Tensor], params: list[Tensor], targets: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns the named terms of V views; `targets` are the momentum copy's features of the last two.

        Without `targets`, the trained embeddings are the targets.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        images = [encoder.augment(batch, view) for view in range(len(batch.views))]
        targets = None if self.agree.momentum is None else cast(list[Tensor], self.target_encoder(images[-2:]))
        return self.terms(encoder(images), batch.params, targets)

    def attach(self, encoder: Encoder) -> None:
        """Makes the momentum copies, if the agreement needs them."""
        if self.agree.momentum is not None:
            self.target_encoder, self.target_heads = MomentumCopy(encoder), MomentumCopy(self.heads)

    def after_step(self, encoder: Encoder, progress: float) -> None:
        """Updates the momentum copies."""
        if self.agree.momentum is not None:
            momentum = self.agree.momentum_at(progress)
            self.target_encoder.update(encoder, momentum)
            self.target_heads.update(self.heads, momentum)


class TwoViews(Agreeing):
    """The plain base method: two augmented views agree; uses neither a base view nor the params."""

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of two draws: (2, P)."""
        return self.policy.draws(2, height, width, generator)

    def terms(
        self, features: list[Tensor], params: list[Tensor], targets: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns {"invariant": ...} for two views."""
        z1, z2 = (self.heads(f) for f in features)  # batch norm treats each view separately
        t1, t2 = (z1, z2) if targets is None else (cast(Any, self.target_heads(f)) for f in targets)
        return {"invariant": self.agree.between(z1, z2, t1, t2)}

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the head's output as "z_inv": (B, D) -> (B, O)."""
        return {"z_inv": self.heads(features)}
