"""Copies of modules, queues and memory banks of embeddings, for objectives; the optimizer does not train them.

Letters: N rows on this process, W processes, K rows of a queue, O embedding size.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import gather_with_grad


class MomentumCopy(nn.Module):
    """A copy of a module whose weights are an exponential moving average of the module's weights.

    Calling it calls the copy, without gradient. Buffers, e.g. running statistics, are the copy's own. Make it in
    `Objective.attach`, after the weights are initialised. Source: MoCo (He et al., 2020), eq. 2.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: object, **kwargs: object) -> object:
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, module: nn.Module, momentum: float) -> None:
        """Moves the copy's weights toward those of `module`: copy = momentum * copy + (1 - momentum) * module."""
        ours = [p.detach() for p in self.module.parameters()]
        theirs = [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - momentum)


class FrozenCopy(MomentumCopy):
    """A copy that never changes: its weights are not updated, and it stays in eval mode. For teachers."""

    def __init__(self, module: nn.Module):
        super().__init__(module)
        self.train()

    def train(self, mode: bool = True) -> "FrozenCopy":
        """Keeps eval mode."""
        super().train(False)
        return self


def cosine_momentum(start: float, progress: float) -> float:
    """Returns the momentum at `progress` in [0, 1], from `start` to 1 along a half cosine. Source: BYOL (2020), 3.2."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class Queue(nn.Module):
    """The last K embeddings of all processes, (K, O) of unit length; random directions at first.

    Source: MoCo (He et al., 2020), section 3.2.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, embed_dim: int):
        super().__init__()
        if size < 1:
            raise ValueError(f"the queue's size is {size}; it must be at least 1")
        self.register_buffer("rows", F.normalize(torch.randn(size, embed_dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Replaces the oldest rows by the embeddings (N, O) of every process; all queues stay equal."""
        new = gather_with_grad(F.normalize(embeddings.detach().float(), dim=1))[-len(self.rows) :]
        places = (self.position + torch.arange(len(new), device=new.device)) % len(self.rows)
        self.rows.index_copy_(0, places, new)
        self.position.add_(len(new)).remainder_(len(self.rows))


class MemoryBank(nn.Module):
    """A moving average of the embedding of each image: (K, O), a row per image; random directions at first.

    Images whose indices are equal modulo K share a row. Source: Wu et al. (CVPR 2018), section 3.
    """

    rows: Tensor
    updates: Tensor

    def __init__(self, size: int, embed_dim: int):
        super().__init__()
        if size < 1:
            raise ValueError(f"the memory bank's size is {size}; it must be at least 1")
        self.register_buffer("rows", F.normalize(torch.randn(size, embed_dim), dim=1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def read(self, index: Tensor) -> Tensor:
        """Returns the rows of images: (N,) int64 -> (N, O)."""
        return self.rows[index % len(self.rows)]

    def sample(self, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Returns `count` rows, (C, O), and which of them are not of an image, (N, C) bool, for images (N,).

        The rows are evenly spaced over the bank, and each update moves on to the next ones. Returns all rows if
        there are fewer.
        """
        count = min(count, len(self.rows))
        numbers = self.updates + torch.arange(count, device=index.device) * (len(self.rows) // count)
        numbers = numbers % len(self.rows)
        return self.rows[numbers], (index % len(self.rows))[:, None] != numbers

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Moves the rows of every process's images toward their embeddings (N, O); all banks stay equal."""
        numbers = gather_with_grad(index) % len(self.rows)
        new = gather_with_grad(embeddings.detach().float())
        self.rows.index_copy_(0, numbers, torch.lerp(new, self.rows[numbers], momentum))
        self.updates.add_(1)
