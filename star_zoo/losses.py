"""Losses on pairs of embeddings. Letters: N pairs on this process, O embedding size, W processes.

Every loss takes both sides of the pairs, (N, O) each, and returns a scalar in float32, also under autocast.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Gathers the rows of all processes in rank order; sums the gradient of each row over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)  # autograd may share the tensor; all_reduce writes
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows :][: ctx.rows]


def rank() -> int:
    """Returns this process's place among all processes; 0 if there is one process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_with_grad(x: Tensor) -> Tensor:
    """Returns the rows of all processes, with gradient: (N, O) -> (W*N, O), this process's at rank*N.

    With one process, returns x itself. Every process must pass the same number of rows. The sum over processes in the
    backward pass and DDP's mean cancel, so that a loss averaged over each process's own rows trains as one process
    with the whole batch would.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        gathered: Tensor = _Gather.apply(x)
        return gathered
    return x


def _products(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.T


def nt_xent(
    a: Tensor, b: Tensor, temperature: float, similarity: Callable[[Tensor, Tensor], Tensor] = _products
) -> Tensor:
    """Returns the normalised temperature-scaled cross entropy of N pairs: (N, O), (N, O) -> scalar, in float32.

    Each of the 2N rows is an anchor; its positive is the other row of its pair, and its negatives are all other rows,
    including those of other processes. The loss is averaged over the anchors. `similarity` compares anchors with rows
    of unit length, (2N, O), (2N*W, O) -> (2N, 2N*W), by default as their cosine. Raises ValueError if the shapes differ
    or the temperature is not positive. Source: SimCLR (Chen et al., 2020), eq. 1.
    """
    if a.shape != b.shape:
        raise ValueError(f"embeddings have shapes {tuple(a.shape)} and {tuple(b.shape)}; a pair needs equal shapes")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    with torch.autocast(a.device.type, enabled=False):  # logits need float32: bfloat16 values near 5 are 1/32 apart
        own = F.normalize(torch.cat((a, b)).float(), dim=1)
        everyone = gather_with_grad(own)
        rows = torch.arange(len(own), device=own.device)
        me = rank() * len(own) + rows
        logits = similarity(own, everyone) / temperature
        logits = logits.masked_fill(me[:, None] == torch.arange(len(everyone), device=own.device), float("-inf"))
        positive = rank() * len(own) + rows.roll(len(a))
        return F.cross_entropy(logits, positive)


def info_nce(queries: Tensor, keys: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """Returns the cross entropy of N queries with their keys: (N, O), (N, O) -> scalar, in float32.

    The positive of a query is its key. Its negatives are all other keys, including those of other processes; or, if
    `negatives` (K, O) are given, those rows alone. All rows are scaled to unit length. Raises ValueError if the
    temperature is not positive, or if the shapes of queries and keys differ. Sources: MoCo (He et al., 2020), eq. 1;
    MoCo v3 (Chen et al., 2021), algorithm 1.
    """
    if queries.shape != keys.shape:
        raise ValueError(
            f"embeddings have shapes {tuple(queries.shape)} and {tuple(keys.shape)}; a pair needs equal shapes"
        )
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = (F.normalize(x.float(), dim=1) for x in (queries, keys))
        own = torch.arange(len(queries), device=queries.device)
        if negatives is None:
            everyone = gather_with_grad(keys)
            return F.cross_entropy(queries @ everyone.T / temperature, rank() * len(keys) + own)
        rows = F.normalize(negatives.float(), dim=1)
        logits = torch.cat(((queries * keys).sum(1, keepdim=True), queries @ rows.T), 1)
        return F.cross_entropy(logits / temperature, torch.zeros_like(own))


def negative_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Returns the mean negative cosine similarity of N pairs: (N, O), (N, O) -> scalar, with a gradient to both sides.

    The loss does not prevent embeddings from collapsing to one point: a method that uses it must stop the gradient of
    one side and predict it from the other. Source: SimSiam (Chen & He, 2021), eq. 1.
    """
    with torch.autocast(a.device.type, enabled=False):
        return -F.cosine_similarity(a.float(), b.float(), dim=1).mean()


def barlow_twins(a: Tensor, b: Tensor, weight: float = 5e-3) -> Tensor:
    """Returns the squared distance of the cross-correlation matrix from the identity, over O: (N, O) twice -> scalar.

    Correlations are over the pairs of all processes; `weight` is lambda, the weight of the off-diagonal elements.
    Source: Barlow Twins (Zbontar et al., 2021), eq. 1 and 2. The paper's loss is O times this; the steps of its
    optimiser, LARS, do not depend on the scale of a loss, but those of SGD do. Dimensions are divided by
    sqrt(variance + 1e-5), as by batch norm, so that the gradient of a collapsed one is finite.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (gather_with_grad(x.float()) for x in (a, b))
        a, b = ((x - x.mean(0)) * (x.var(0, correction=0) + 1e-5).rsqrt() for x in (a, b))  # as batch norm
        correlation = a.T @ b / len(a)
        diagonal = correlation.diagonal()
        redundant = correlation.square().sum() - diagonal.square().sum()
        return ((1 - diagonal).square().sum() + weight * redundant) / len(diagonal)


def vicreg(a: Tensor, b: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    """Returns the weighted variance, invariance and covariance terms of N pairs: (N, O), (N, O) -> scalar.

    Variances and covariances are over the pairs of all processes. Source: VICReg (Bardes et al., 2022), eq. 1 to 6,
    except that the variance term is the mean over the two sides, as in the authors' code, and not their sum.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (gather_with_grad(x.float()) for x in (a, b))
        distance = F.mse_loss(a, b)
        spread = sum((1 - (x.var(0) + 1e-4).sqrt()).relu().mean() for x in (a, b)) / 2
        shared = sum(_off_diagonal_covariance(x) for x in (a, b))
        return invariance * distance + variance * spread + covariance * shared


def _off_diagonal_covariance(x: Tensor) -> Tensor:
    """Returns the sum of squared covariances between different dimensions, divided by O: (N, O) -> scalar."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / (len(x) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]
