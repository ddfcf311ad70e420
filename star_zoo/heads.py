"""The heads that STAR trains on top of a backbone: experts, routers and the shift predictor.

Letters: B images, V views (V*B rows hold the views one after another), D features, E experts, H hidden width,
O embedding size, T tasks, P augmentation parameters.
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
PARAM_DIM = 128  # released code, p_projector
_NEGLIGIBLE = torch.finfo(torch.float32).eps ** 2  # of a router's weights


def mlp(*widths: int, bias: bool = True, norm: bool = False) -> nn.Sequential:
    """Returns linear layers of these widths, each but the last followed by batch norm and ReLU.

    With `norm`, a batch norm without affine parameters follows the last layer. Layers before a batch norm have no bias;
    `bias` is that of the last layer.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=bias and not norm))
    if norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def by_view(norm: nn.Module, x: Tensor, views: int) -> Tensor:
    """Applies a batch norm to each view separately, as V calls would: (V*B, C) -> (V*B, C)."""
    separately = views > 1 and norm.training
    normalised: Tensor = torch.cat([norm(view) for view in x.chunk(views)]) if separately else norm(x)
    return normalised


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)))


class Experts(nn.Module):
    """E three-layer MLPs computed together: (V*B, D) -> (V*B, E, O), with as many kernels as one MLP.

    Layer 1 is one linear layer onto E*H columns; layers 2 and 3 are batched matrix products. One stock batch norm over
    the E*H columns normalises each expert separately (conversion to SyncBatchNorm would lose a subclass). `hidden` is
    H, `num_features` by default. Raises ValueError for fewer than one expert.
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
        # baddbmm, because einsum plus bias returns float32 under autocast
        return torch.baddbmm(self.bias3, self._by_expert(x), self.weight3).transpose(0, 1)

    def _by_expert(self, x: Tensor) -> Tensor:
        """Returns a view of the columns by expert: (B, E*H) -> (E, B, H)."""
        return x.view(x.shape[0], self.num_experts, -1).transpose(0, 1)  # len() would fix the size in exported files


class Router(nn.Module):
    """Computes soft weights over the experts for each task: (B, D) -> (B, T, E), summing to 1 over E.

    One linear layer and a softmax per task, without noise, temperature or a balancing loss; the gradient reaches the
    backbone. Routing is soft because a sparse choice would leave too few rows for the batch norms inside the experts.
    Weights below the square of float32's epsilon, 1.4e-14, are set to 0, because the gradients of their experts may
    become denormal numbers, which slow down CPUs.
    """

    def __init__(self, num_features: int, num_experts: int, num_tasks: int = 2):
        super().__init__()
        self.num_experts = num_experts
        self.linear = nn.Linear(num_features, num_tasks * num_experts)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features).view(features.shape[0], -1, self.num_experts)
        weights = logits.softmax(-1)
        return torch.where(weights > _NEGLIGIBLE, weights, 0.0)


class FixedRouter(nn.Module):
    """Returns the same weights for every image: (B, D) -> (B, T, E).

    `weights` is a table (T, E), a buffer that is saved and never trained. Raises ValueError for another shape.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[Sequence[float]]):
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        if self.weights.ndim != 2:
            raise ValueError(f"weights have shape {tuple(self.weights.shape)}; a fixed router needs (tasks, experts)")
        self.num_experts = self.weights.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        return self.weights.expand(features.shape[0], -1, -1)


class Standardize(nn.Module):
    """Returns (x - mean) / std with saved statistics: (B, P) -> (B, P). A column with std 0 is only centred."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class ShiftPredictor(nn.Module):
    """Predicts a view's embedding from that of the base view: (B, O), raw params (B, P) -> embedding + shift (B, O)."""

    def __init__(self, standardize: Standardize, embed_dim: int = EMBED_DIM):
        super().__init__()
        self.standardize = standardize
        self.encode = nn.Linear(len(standardize.mean), PARAM_DIM)
        self.shift = mlp(embed_dim + PARAM_DIM, _PREDICTOR_HIDDEN, _PREDICTOR_HIDDEN, embed_dim)

    def forward(self, embedding: Tensor, params: Tensor) -> Tensor:
        encoded = self.encode(self.standardize(params))
        shift: Tensor = self.shift(torch.cat((embedding, encoded), 1))
        return embedding + shift


class StarHeads(nn.Module):
    """Mixes the experts by a router, once per task: features (V*B, D) -> z_inv, z_eq, each (V*B, O).

    One call with V views computes the same as V calls, faster, because it reads the experts' weights once.
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
