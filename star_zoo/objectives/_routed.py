"""The two-task objective that star, star_ss, equimod and uniform share: they differ in the router alone.

Letters: B images, D features, E experts, O embedding size, T tasks, P augmentation parameters.
Source: arXiv 2510.27222 and the authors' released code (trainers.py, objective.py).
"""

import torch
from torch import Tensor

from ..augmentations import Policy
from ..heads import EMBED_DIM, Experts, FixedRouter, Router, ShiftPredictor, Standardize, StarHeads
from ..losses import agreement
from ._base import FeatureObjective


class RoutedExperts(FeatureObjective):
    """The two-task objective around a router: a base view and two augmented ones; the router is the method.

    Invariant term: the augmented views' `z_inv` agree. Equivariant term: each augmented view's `z_eq` agrees with the
    shift predictor's prediction from the base view's `z_eq` and the view's params. With nt_xent, the other view of the
    same image is a negative there, which keeps the embedding from becoming invariant.
    """

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        router: Router | FixedRouter,
        *,
        temperature: float = 0.2,  # of nt_xent, both terms; released code
        equivariant_weight: float = 1.0,  # lambda; hard-coded 1 in the released code
        hidden: int | None = None,  # width of the experts' hidden layers; None: the features' width
        embed_dim: int = EMBED_DIM,  # O, width of both embeddings
        agree: str = "nt_xent",  # the agreement that both terms maximise; see `losses.AGREEMENTS`
    ):
        super().__init__(policy)
        self.equivariant_weight = equivariant_weight
        self.agree = agreement(agree, temperature)
        self.heads = StarHeads(Experts(num_features, router.num_experts, embed_dim, hidden), router)
        self.shift_predictor = ShiftPredictor(Standardize(*policy.field_statistics), embed_dim)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Plans the base view and two draws: (3, P)."""
        draws = (self.policy.draw(height, width, generator) for _ in range(2))
        return torch.stack((self.policy.base(height, width), *draws))

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Returns {"invariant": ..., "equivariant": ...} of [base, view, view]."""
        # batch norm sees each view on its own, as the released code does
        z_inv, z_eq = self.heads(torch.cat(features), len(features))
        (_, inv1, inv2), (eq0, eq1, eq2) = z_inv.chunk(3), z_eq.chunk(3)
        predicted = [self.shift_predictor(eq0, p) for p in params[1:]]
        equivariant = self.agree(torch.cat((eq1, eq2)), torch.cat(predicted))
        return {"invariant": self.agree(inv1, inv2), "equivariant": self.equivariant_weight * equivariant}

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the invariant and the equivariant embedding, "z_inv" and "z_eq": (B, D) -> (B, O) each."""
        z_inv, z_eq = self.heads(features)
        return {"z_inv": z_inv, "z_eq": z_eq}

    def predict(self, z: Tensor, params: Tensor) -> Tensor:
        """Predicts views' z_eq by the shift predictor: (B, O), (B, P) -> (B, O)."""
        return self.shift_predictor(z, params)

    def routing(self, features: Tensor) -> Tensor:
        """Returns the router's weights of the invariant and the equivariant task: (B, 2, E)."""
        return self.heads.router(features)

    def experts(self, features: Tensor) -> Tensor:
        """Returns the output of every expert: (B, E, O)."""
        return self.heads.experts(features)
