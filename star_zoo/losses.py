"""Contrastive losses. Letters: N pairs on this process, O embedding size, W processes."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


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
