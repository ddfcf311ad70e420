"""SimSiam (Chen & He, CVPR 2021) on STAR's experts: an objective that lives outside the package."""

import torch
from torch import Tensor

from star_zoo import FeatureObjective, Policy
from star_zoo.heads import Experts, Router, StarHeads, mlp
from star_zoo.losses import negative_cosine


class SimSiam(FeatureObjective):
    """Two views; a predictor of each view's z_inv meets the other's, whose gradient is stopped."""

    def __init__(self, num_features: int, policy: Policy, *, num_experts: int = 4, embed_dim: int = 32):
        super().__init__(policy)
        router = Router(num_features, num_experts)
        self.heads = StarHeads(Experts(num_features, num_experts, embed_dim), router)
        self.predictor = mlp(embed_dim, 16, embed_dim)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        return torch.stack([self.policy.draw(height, width, generator) for _ in range(2)])

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        (z1, eq1), (z2, eq2) = (self.heads(f) for f in features)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        invariant = (negative_cosine(p1, z2.detach()) + negative_cosine(p2, z1.detach())) / 2
        return {"invariant": invariant, "same": negative_cosine(eq1, eq2)}

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        z_inv, z_eq = self.heads(features)
        return {"z_inv": z_inv, "z_eq": z_eq}

    def routing(self, features: Tensor) -> Tensor:
        return self.heads.router(features)

    def experts(self, features: Tensor) -> Tensor:
        return self.heads.experts(features)
