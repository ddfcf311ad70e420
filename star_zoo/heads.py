"""The heads that STAR trains on top of a backbone: experts, routers and the shift predictor.

Letters: B images, V views of them one after the other, D features, E experts, H hidden width, O embedding size,
T tasks, P augmentation parameters.
Sources: arXiv 2510.27222 and the authors' released code. Every linear layer keeps torch's default initialisation,
U(+-1/sqrt(fan in)).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

EMBED_DIM = 128  # released code
_PREDICTOR_HIDDEN = 512  # released code, eq_predictor
_PARAM_DIM = 128  # released code, p_projector


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between; no bias before a batch norm, none of either after the last."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def by_view(norm: nn.Module, x: Tensor, views: int) -> Tensor:
    """A batch norm that takes each view on its own: (V*B, C) -> (V*B, C), as a call for each of V views would give."""
    if views == 1 or not norm.training:
        return norm(x)
    return torch.cat([norm(view) for view in x.chunk(views)])


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)))


class Experts(nn.Module):
    """E three-layer MLPs side by side: (V*B, D) -> (V*B, E, O); as many kernels as one MLP, whatever E is.

    Layer 1 is one linear layer onto E*H columns, and a stock batch norm over them is each expert's own (a subclass
    would be lost when converted to SyncBatchNorm); layers 2 and 3 are batched matrix products.
    """

    def __init__(self, num_features: int, num_experts: int, embed_dim: int = EMBED_DIM, hidden: int | None = None):
        super().__init__()
        if num_experts < 1:
            raise ValueError(f"num_experts is {num_experts}; it must be at least 1")
        hidden = hidden or num_features
        self.num_experts = num_experts
        self.linear1 = nn.Linear(num_features, num_experts * hidden, bias=False)
        self.norm1 = nn.BatchNorm1d(num_experts * hidden)
        self.weight2 = _uniform(num_experts, hidden, hidden, fan_in=hidden)  # (E, in, out)
        self.norm2 = nn.BatchNorm1d(num_experts * hidden)
        self.weight3 = _uniform(num_experts, hidden, embed_dim, fan_in=hidden)
        self.bias3 = _uniform(num_experts, 1, embed_dim, fan_in=hidden)

    def forward(self, features: Tensor, views: int = 1) -> Tensor:
        x = by_view(self.norm1, self.linear1(features), views).relu()
        x = torch.bmm(self._by_expert(x), self.weight2).transpose(0, 1).flatten(1)
        x = by_view(self.norm2, x, views).relu()
        # baddbmm, not einsum plus bias: under autocast the latter comes out in float32
        return torch.baddbmm(self.bias3, self._by_expert(x), self.weight3).transpose(0, 1)

    def _by_expert(self, x: Tensor) -> Tensor:
        """(B, E*H) -> (E, B, H), a view."""
        return x.view(len(x), self.num_experts, -1).transpose(0, 1)


class Router(nn.Module):
    """Each task's soft weights over the experts: (B, D) -> (B, T, E), summing to 1 over E.

    One linear layer and a softmax per task; no noise, temperature or balancing loss, and the gradient reaches the
    backbone. Soft only: a sparse choice would starve the batch norms inside the experts.
    """

    def __init__(self, num_features: int, num_experts: int, num_tasks: int = 2):
        super().__init__()
        self.num_experts = num_experts
        self.linear = nn.Linear(num_features, num_tasks * num_experts)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features).view(len(features), -1, self.num_experts).softmax(-1)


class FixedRouter(nn.Module):
    """The same weights for every image: (B, D) -> (B, T, E), from a table (T, E) that is saved and never trained."""

    weights: Tensor

    def __init__(self, weights: Sequence[Sequence[float]]):
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        if self.weights.ndim != 2:
            raise ValueError(f"a fixed router needs a table (tasks, experts), but its shape is {self.weights.shape}")
        self.num_experts = self.weights.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        return self.weights.expand(len(features), -1, -1)


class Standardize(nn.Module):
    """(x - mean) / std by saved statistics: (B, P) -> (B, P). A column that never varies is only centred."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class ShiftPredictor(nn.Module):
    """Predicts a view's embedding from the base view's: (B, O), raw params (B, P) -> embedding + shift (B, O)."""

    def __init__(self, standardize: Standardize, embed_dim: int = EMBED_DIM):
        super().__init__()
        self.standardize = standardize
        self.encode = nn.Linear(len(standardize.mean), _PARAM_DIM)
        self.shift = mlp(embed_dim + _PARAM_DIM, _PREDICTOR_HIDDEN, _PREDICTOR_HIDDEN, embed_dim)

    def forward(self, embedding: Tensor, params: Tensor) -> Tensor:
        encoded = self.encode(self.standardize(params))
        return embedding + self.shift(torch.cat((embedding, encoded), 1))


class StarHeads(nn.Module):
    """Experts mixed by a router, once for each task: features (V*B, D) -> z_inv, z_eq, each (V*B, O).

    Several views in one call give what a call for each gives, in less time: the experts' weights are read once.
    """

    def __init__(self, experts: Experts, router: Router | FixedRouter):
        super().__init__()
        self.experts = experts
        self.router = router

    def forward(self, features: Tensor, views: int = 1) -> tuple[Tensor, Tensor]:
        weights = self.router(features)
        outputs = self.experts(features, views)
        z_inv, z_eq = torch.bmm(weights.to(outputs.dtype), outputs).unbind(1)
        return z_inv, z_eq
