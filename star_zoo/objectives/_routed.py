"""The two-task objective that star, star_ss and equimod share: they differ in the router alone.

Letters: B images, D features, E experts, O embedding size, P augmentation parameters.
Source: arXiv 2510.27222 and the authors' released code (trainers.py, objective.py).
"""

import torch
from torch import Tensor

from ..augmentations import Policy
from ..heads import EMBED_DIM, Experts, FixedRouter, Router, ShiftPredictor, Standardize, StarHeads
from ..losses import nt_xent
from ._base import Objective


class RoutedExperts(Objective):
    """The two-task objective around a router: a base view and two augmented ones; the router is the method.

    Invariant term: the augmented views' `z_inv` agree. Equivariant term: each augmented view's `z_eq` is what the
    shift predictor says from the base view's `z_eq` and the view's params; the other view of the same image is a
    negative there, which is what keeps the embedding from becoming invariant.
    """

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        router: Router | FixedRouter,
        num_experts: int,
        temperature: float,
        equivariant_weight: float,
        hidden: int | None,
    ):
        super().__init__(policy)
        self.temperature = temperature
        self.equivariant_weight = equivariant_weight
        self.heads = StarHeads(Experts(num_features, num_experts, EMBED_DIM, hidden), router)
        self.shift_predictor = ShiftPredictor(Standardize(*policy.field_statistics), EMBED_DIM)

    def plan(self, policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
        """The base view and two draws: (3, P)."""
        draws = (policy.draw(height, width, generator) for _ in range(2))
        return torch.stack((policy.base(height, width), *draws))

    def forward(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """{"invariant": ..., "equivariant": ...} of [base, view, view], features (B, D) and raw params (B, P) each."""
        # batch norm sees each view on its own, as the released code does
        z_inv, z_eq = self.heads(torch.cat(features), len(features))
        (_, inv1, inv2), (eq0, eq1, eq2) = z_inv.chunk(3), z_eq.chunk(3)
        predicted = [self.shift_predictor(eq0, p) for p in params[1:]]
        equivariant = nt_xent(torch.cat((eq1, eq2)), torch.cat(predicted), self.temperature)
        return {
            "invariant": nt_xent(inv1, inv2, self.temperature),
            "equivariant": self.equivariant_weight * equivariant,
        }
