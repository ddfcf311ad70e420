"""SimCLR (Chen et al., ICML 2020): two augmented views agree. Letters: B images, D features, P parameters."""

import torch
from torch import Tensor

from ..augmentations import Policy
from ..heads import EMBED_DIM, mlp
from ..losses import nt_xent
from ._base import Objective


class SimCLR(Objective):
    """SimCLR with the three-layer head of STAR's experts; no base view, no use of the params."""

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,
        hidden: int | None = None,  # width of the head's hidden layers; None: the features' width
    ):
        super().__init__(policy)
        self.temperature = temperature
        self.heads = mlp(num_features, hidden or num_features, hidden or num_features, EMBED_DIM)

    def plan(self, policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Two draws: (2, P)."""
        return torch.stack([policy.draw(height, width, generator) for _ in range(2)])

    def forward(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """{"invariant": ...} of two views' features, (B, D) each."""
        z1, z2 = (self.heads(f) for f in features)
        return {"invariant": nt_xent(z1, z2, self.temperature)}
