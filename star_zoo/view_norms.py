"""Batch norm that sees each view on its own, though several views pass through the backbone at once.

One pass over the views of a batch is faster than one pass a view, and where batch norm's statistics are each view's
own it computes the same. Gradient checkpointing computes the activations again during the backward pass; the running
statistics don't count that second pass. Letters: B images, V views of an image.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class ViewNorms:
    """Runs a backbone on several views at once, with its batch norms, of any kind, taking each view on its own."""

    def __init__(self, backbone: nn.Module):
        self._backbone: tuple[Any] = (backbone,)  # a tuple, so that the backbone is no submodule here
        self._next = self.views = 1
        self._seen: dict[tuple[int, torch.Size], int] = {}
        for norm in backbone.modules():
            if isinstance(norm, _BatchNorm):
                norm.forward = functools.partial(_by_view, norm, self)  # type: ignore[method-assign]
        backbone.register_forward_pre_hook(self._begin)

    def __call__(self, images: Tensor, views: int) -> Tensor:
        """Returns the features (V*B, D) of V views, one after the other: (V*B, 3, S, S)."""
        self._next = views
        return self._backbone[0](images)

    def intermediates(self, images: Tensor, views: int, layers: list[int]) -> list[Tensor]:
        """Returns the maps (V*B, C, H, W) of some layers, as timm's `forward_intermediates` does."""
        self.views = views
        return self._backbone[0].forward_intermediates(images, indices=layers, intermediates_only=True)

    def _begin(self, *_: object) -> None:
        """Any other call of the backbone is of one view."""
        self.views, self._next = self._next, 1

    def views_of(self, norm: nn.Module, shape: torch.Size, again: bool) -> int:
        """Returns how many views a norm's input holds: if it is computed again, as many as in its forward pass."""
        if torch.compiler.is_compiling():
            return self.views
        if again:  # maybe after a pass of other views
            return self._seen.get((id(norm), shape), self.views)
        self._seen[id(norm), shape] = self.views
        return self.views


def _by_view(norm: _BatchNorm, norms: ViewNorms, x: Tensor) -> Tensor:
    forward = type(norm).forward
    if not norm.training:
        return forward(norm, x)
    again = _recomputing()
    views = norms.views_of(norm, x.shape, again)
    with _uncounted(norm) if again else contextlib.nullcontext():
        return forward(norm, x) if views == 1 else torch.cat([forward(norm, view) for view in x.chunk(views)])


def _recomputing() -> bool:
    """Whether a backward pass runs this forward pass. A compiled graph changes no buffer then."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextlib.contextmanager
def _uncounted(norm: nn.Module) -> Iterator[None]:
    """Inside, a batch norm updates copies of its running statistics, which are lost."""
    kept = dict(norm._buffers)
    norm._buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in kept.items()})
    try:
        yield
    finally:
        norm._buffers.update(kept)
