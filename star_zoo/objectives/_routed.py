"""The two-task objective that star, star_ss, equimod and uniform share; they differ only in the router.

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
    """The two-task objective on a base view and two augmented views; the router defines the method.

    The invariant term is the agreement between `z_inv` of the two augmented views. The equivariant term is the
    agreement between `z_eq` of each augmented view and its prediction by the shift predictor from `z_eq` of the base
    view and the params of the augmented view. With nt_xent, the other view of the same image is a negative in the
    equivariant term, which keeps the embedding from becoming invariant.
    """

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        router: Router | FixedRouter,
        *,
        temperature: float = 0.2,  # of nt_xent, both terms; released code
        equivariant_weight: float = 1.0,  # lambda; hard-coded as 1 in the released code
        hidden: int | None = None,  # width of the experts' hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of both embeddings
        agree: str = "nt_xent",  # the agreement that both terms maximise; see `losses.AGREEMENTS`
    ):
        super().__init__(policy)
        self.equivariant_weight = equivariant_weight
        self.agree = agreement(agree, temperature)
        self.heads = StarHeads(Experts(num_features, router.num_experts, embed_dim, hidden), router)
        self.shift_predictor = ShiftPredictor(Standardize(*policy.field_statistics), embed_dim)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of the base view and of two draws: (3, P)."""
        draws = (self.policy.draw(height, width, generator) for _ in range(2))
        return torch.stack((self.policy.base(height, width), *draws))

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Returns {"invariant": ..., "equivariant": ...} for [base view, augmented view, augmented view]."""
        # batch norm treats each view separately, as in the released code
        z_inv, z_eq = self.heads(torch.cat(features), len(features))
        (_, inv1, inv2), (eq0, eq1, eq2) = z_inv.chunk(3), z_eq.chunk(3)
        predicted = [self.shift_predictor(eq0, p) for p in params[1:]]
        equivariant = self.agree(torch.cat((eq1, eq2)), torch.cat(predicted))
        return {"invariant": self.agree(inv1, inv2), "equivariant": self.equivariant_weight * equivariant}

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the invariant embedding "z_inv" and the equivariant embedding "z_eq": (B, D) -> (B, O) each."""
        z_inv, z_eq = self.heads(features)
        return {"z_inv": z_inv, "z_eq": z_eq}

    def predict(self, z: Tensor, params: Tensor) -> Tensor:
        """Returns z_eq of views as predicted from z_eq of the base views: (B, O), params (B, P) -> (B, O)."""
        predicted: Tensor = self.shift_predictor(z, params)
        return predicted

    def routing(self, features: Tensor) -> Tensor:
        """Returns the weights over the experts for the invariant and the equivariant task: (B, D) -> (B, 2, E)."""
        weights: Tensor = self.heads.router(features)
        return weights

    def experts(self, features: Tensor) -> Tensor:
        """Returns the output of every expert: (B, D) -> (B, E, O)."""
        outputs: Tensor = self.heads.experts(features)
        return outputs
