"""The two-task objective that star, star_ss, equimod and uniform share; they differ only in the router.

Letters: B images, D features, E experts, O embedding size, T tasks, P augmentation parameters.
Source: arXiv 2510.27222 and the authors' released code (trainers.py, objective.py).
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..augmentations import Policy
from ..heads import EMBED_DIM, Experts, FixedRouter, Router, ShiftPredictor, Standardize, StarHeads
from . import _papers
from ._agreeing import Agreeing
from ._agreements import agreement


class RoutedExperts(Agreeing):
    """The two-task objective on a base view and two augmented views; the router defines the method.

    The invariant term is the agreement between `z_inv` of the two augmented views. The equivariant term is the
    agreement between `z_eq` of each augmented view and its prediction by the shift predictor from `z_eq` of the base
    view and the params of the augmented view. With nt_xent, the other view of the same image is a negative in the
    equivariant term, which keeps the embedding from becoming invariant. Agreements
    that stop the target's gradient take the prediction toward `z_eq` of the augmented view, never the other way round,
    which is our choice.
    """

    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    heads: StarHeads
    shift_predictor: nn.Module  # (B, O), raw params (B, P) -> (B, O)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        router: Router | FixedRouter,
        *,
        temperature: float = 0.2,  # of both terms' nt_xent, moco or moco_v3; released code
        equivariant_weight: float = 1.0,  # lambda, weight of the equivariant term; hard-coded as 1 in the released code
        hidden: int | None = None,  # width of the experts' hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of both embeddings
        agree: str = "nt_xent",  # the agreement that both terms maximise; see `_agreements.AGREEMENTS`
    ):
        heads = StarHeads(Experts(num_features, router.num_experts, embed_dim, hidden), router)
        super().__init__(policy, heads, agreement(agree, embed_dim, temperature))
        self.equivariant_weight = equivariant_weight
        self.shift_predictor = ShiftPredictor(Standardize(*policy.field_statistics), embed_dim)
        self.agree_equivariant = agreement(agree, embed_dim, temperature)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of the base view and of two draws: (3, P)."""
        base = self.policy.base(height, width)
        return torch.cat((base[None], self.policy.draws(2, height, width, generator)))

    def terms(
        self, features: list[Tensor], params: list[Tensor], targets: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns {"invariant": ..., "equivariant": ...} for [base view, augmented view, augmented view]."""
        # batch norm treats each view separately, as in the released code
        z_inv, z_eq = self.heads(torch.cat(features), len(features))
        (_, inv1, inv2), (eq0, eq1, eq2) = z_inv.chunk(3), z_eq.chunk(3)
        target_inv, target_eq = torch.cat((inv1, inv2)), torch.cat((eq1, eq2))
        if targets is not None:
            target_inv, target_eq = cast(Any, self.target_heads(torch.cat(targets), len(targets)))
        predicted = torch.cat([self.shift_predictor(eq0, p) for p in params[1:]])
        invariant = self.agree.between(inv1, inv2, *target_inv.chunk(2))
        equivariant = self.agree_equivariant.toward(predicted, target_eq)
        return {"invariant": invariant, "equivariant": self.equivariant_weight * equivariant}

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
