"""Losses on pairs of embeddings. Letters: N pairs on this process, O embedding size, W processes.

Every loss takes the pairs' two sides, (N, O) each, and returns a scalar in float32, whatever autocast says.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .names import not_found


class _Gather(torch.autograd.Function):
    """All processes' rows, in rank order; the gradient of each row is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)  # autograd may hold the same tensor elsewhere
        dist.all_reduce(grad)
        return grad[dist.get_rank() * ctx.rows :][: ctx.rows]


def gather_with_grad(x: Tensor) -> Tensor:
    """Rows of all processes with gradient: (N, O) -> (W*N, O), own rows at rank*N; x itself on one process.

    Every process must bring equally many rows. The backward sum over processes and DDP's mean over them cancel, so
    that a loss averaged over each process's own rows trains as one process with the whole batch would.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _Gather.apply(x)
    return x


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross entropy of N pairs: (N, O), (N, O) -> scalar, always in float32.

    Each of the 2N rows is an anchor; its positive is the other of its pair, its negatives all other rows but itself,
    those of other processes included. Source: SimCLR (Chen et al., 2020), eq. 1; averaged over the anchors.
    """
    if a.shape != b.shape:
        raise ValueError(f"a pair needs two embeddings of one shape, but they are {tuple(a.shape)}, {tuple(b.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    with torch.autocast(a.device.type, enabled=False):  # logits need float32: a bfloat16 step at 5 is 1/32
        own = F.normalize(torch.cat((a, b)).float(), dim=1)
        everyone = gather_with_grad(own)
        rank = dist.get_rank() if len(everyone) > len(own) else 0
        rows = torch.arange(len(own), device=own.device)
        me = rank * len(own) + rows
        logits = own @ everyone.T / temperature
        logits = logits.masked_fill(me[:, None] == torch.arange(len(everyone), device=own.device), float("-inf"))
        positive = rank * len(own) + rows.roll(len(a))
        return F.cross_entropy(logits, positive)


def negative_cosine(a: Tensor, b: Tensor) -> Tensor:
    """The mean negative cosine of N pairs: (N, O), (N, O) -> scalar, with a gradient to both sides.

    Nothing in it keeps embeddings from collapsing to one point: a method that uses it stops the gradient of one side
    and predicts from the other, as SimSiam does (Chen & He, 2021, eq. 1).
    """
    with torch.autocast(a.device.type, enabled=False):
        return -F.cosine_similarity(a.float(), b.float(), dim=1).mean()


def barlow_twins(a: Tensor, b: Tensor, weight: float = 5e-3) -> Tensor:
    """The distance of the sides' cross-correlation from the identity: (N, O), (N, O) -> scalar.

    Correlations are over the pairs of all processes; `weight` is lambda, of the off-diagonal elements. Source: Barlow
    Twins (Zbontar et al., 2021), eq. 1 and 2.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (gather_with_grad(x.float()) for x in (a, b))
        a, b = ((x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-6) for x in (a, b))
        correlation = a.T @ b / len(a)
        diagonal = correlation.diagonal()
        redundant = correlation.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + weight * redundant


def vicreg(a: Tensor, b: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    """Variance, invariance and covariance terms of N pairs: (N, O), (N, O) -> scalar.

    Variances and covariances are over the pairs of all processes. Source: VICReg (Bardes et al., 2022), eq. 1 to 6,
    but the variance term is the mean of the two sides, as in the authors' code, and not their sum.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (gather_with_grad(x.float()) for x in (a, b))
        distance = F.mse_loss(a, b)
        spread = sum((1 - (x.var(0) + 1e-4).sqrt()).relu().mean() for x in (a, b)) / 2
        shared = sum(_off_diagonal_covariance(x) for x in (a, b))
        return invariance * distance + variance * spread + covariance * shared


def _off_diagonal_covariance(x: Tensor) -> Tensor:
    """The sum of squared covariances of different dimensions, divided by their number O: (N, O) -> scalar."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / (len(x) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]


AGREEMENTS: dict[str, Callable[..., Tensor]] = {
    "nt_xent": nt_xent,
    "negative_cosine": negative_cosine,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
}


def agreement(name: str, temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a loss of `AGREEMENTS` by name; `temperature` is that of nt_xent. Raises ValueError for other names."""
    if name not in AGREEMENTS:
        raise ValueError(not_found("agreement", name, AGREEMENTS))
    return functools.partial(nt_xent, temperature=temperature) if name == "nt_xent" else AGREEMENTS[name]
