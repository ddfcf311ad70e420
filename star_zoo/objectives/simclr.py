"""SimCLR (Chen et al., ICML 2020): agreement between two augmented views.

Letters: B images, D features, O embedding size, P augmentation parameters.
"""

import torch
from torch import Tensor

from ..augmentations import Policy
from ..heads import EMBED_DIM, mlp
from ..losses import nt_xent
from ._base import FeatureObjective


class SimCLR(FeatureObjective):
    """SimCLR with the three-layer head of STAR's experts; uses neither a base view nor the params."""

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,
        hidden: int | None = None,  # width of the head's hidden layers; None: num_features
    ):
        super().__init__(policy)
        self.temperature = temperature
        self.heads = mlp(num_features, hidden or num_features, hidden or num_features, EMBED_DIM)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of two draws: (2, P)."""
        return torch.stack([self.policy.draw(height, width, generator) for _ in range(2)])

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Returns {"invariant": ...} for two views."""
        z1, z2 = (self.heads(f) for f in features)
        return {"invariant": nt_xent(z1, z2, self.temperature)}

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the head's output as "z_inv": (B, D) -> (B, O)."""
        return {"z_inv": self.heads(features)}
