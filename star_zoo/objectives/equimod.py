"""EquiMod (Devillers & Lefort, ICLR 2023) in STAR's frame: a separate head for each task.

By default heads, shift predictor and losses are those of `star`, so that the routing is the only difference. Means of
several heads (`heads_inv`, `heads_eq`) are a control for `star`, whose embeddings average experts, without sharing.
`predictor="linear"` gives the published predictor, read in the authors' code (ADevillers/EquiMod, MIT). Its params also
encode the order of the colour jitter, its heads are 2,048 wide, and its invariant term has temperature 0.5; here the
first is a property of the policy, `hidden` sets the second, and both terms share one temperature.

Letters: B images, V views, D features, O embedding size, P augmentation parameters.
"""

from typing import Any

import torch
from torch import Tensor, nn

from star_catalog.names import not_found

from ..augmentations import Policy
from ..heads import EMBED_DIM, PARAM_DIM, Experts, FixedRouter, Standardize, StarHeads, by_view
from . import _papers
from ._routed import RoutedExperts

PREDICTORS = ("residual", "linear")


class EquiMod(RoutedExperts):
    """EquiMod: separate heads for the invariant and for the equivariant task.

    Raises ValueError for an unknown predictor and for less than one head of a task.
    """

    papers = (_papers.EQUIMOD, _papers.STAR)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        predictor: str = "residual",  # "residual": STAR's shift predictor, "linear": the published one
        heads_inv: int = 1,  # heads whose mean is z_inv
        heads_eq: int = 1,  # heads whose mean is z_eq
        embed_dim: int = EMBED_DIM,  # O, width of both embeddings
        **shared: Any,
    ):
        if predictor not in PREDICTORS:
            raise ValueError(not_found("predictor", predictor, PREDICTORS))
        if min(heads_inv, heads_eq) < 1:
            raise ValueError(f"heads_inv is {heads_inv} and heads_eq {heads_eq}; each must be at least 1")
        weights = [[1 / heads_inv] * heads_inv + [0.0] * heads_eq, [0.0] * heads_inv + [1 / heads_eq] * heads_eq]
        super().__init__(num_features, policy, FixedRouter(weights), embed_dim=embed_dim, **shared)
        if predictor == "linear":
            self.heads = NormalisedHeads(self.heads.experts, self.heads.router, embed_dim)
            self.shift_predictor = LinearPredictor(Standardize(*policy.field_statistics), embed_dim)


class NormalisedHeads(StarHeads):
    """STAR's heads, each followed by a batch norm without affine parameters: (V*B, D) -> z_inv, z_eq (V*B, O)."""

    def __init__(self, experts: Experts, router: Any, embed_dim: int):
        super().__init__(experts, router)
        self.norms = nn.ModuleList(nn.BatchNorm1d(embed_dim, affine=False) for _ in range(2))

    def forward(self, features: Tensor, views: int = 1) -> tuple[Tensor, Tensor]:
        z_inv, z_eq = (
            by_view(norm, z, views) for norm, z in zip(self.norms, super().forward(features, views), strict=True)
        )
        return z_inv, z_eq


class LinearPredictor(nn.Module):
    """Predicts a view's embedding by one linear layer and batch norm: (B, O), raw params (B, P) -> (B, O)."""

    def __init__(self, standardize: Standardize, embed_dim: int):
        super().__init__()
        self.standardize = standardize
        self.encode = nn.Sequential(nn.Linear(len(standardize.mean), PARAM_DIM), nn.BatchNorm1d(PARAM_DIM))
        self.linear = nn.Linear(embed_dim + PARAM_DIM, embed_dim, bias=False)
        self.norm = nn.BatchNorm1d(embed_dim, affine=False)

    def forward(self, embedding: Tensor, params: Tensor) -> Tensor:
        encoded = self.encode(self.standardize(params))
        predicted: Tensor = self.norm(self.linear(torch.cat((embedding, encoded), 1)))
        return predicted
