"""Batch norm that sees each view on its own, though all views pass through the backbone at once.

One pass over the views of a batch is faster than a pass for each, and where batch norm's statistics are each view's own
it computes the same. Gradient checkpointing computes the activations again during the backward pass; the running
statistics don't count that second pass. Letters: B images, V views of an image.
"""

import contextlib
import types
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class ViewNorms:
    """The batch norms of a backbone, of any kind, taught to take each view for itself while they train."""

    def __init__(self, backbone: nn.Module):
        self._backbone, self._views, self._next = (backbone,), 1, 1  # a tuple: not a part of this module's own
        for norm in backbone.modules():
            if isinstance(norm, _BatchNorm):
                self._teach(norm)
        backbone.register_forward_pre_hook(self._begin)

    def __call__(self, images: Tensor, views: int) -> Tensor:
        """The features (V*B, D) of V views that lie one after the other: (V*B, 3, S, S)."""
        self._next = views
        return self._backbone[0](images)

    def _begin(self, *_: object) -> None:
        """Whoever else calls the backbone gives it one batch; checkpointed activations are computed again as before."""
        self._views, self._next = self._next, 1

    def _teach(self, norm: nn.Module) -> None:
        forward = type(norm).forward

        def by_view(norm: nn.Module, x: Tensor) -> Tensor:
            with _uncounted(norm) if _recomputing() else contextlib.nullcontext():
                if not norm.training or self._views == 1:
                    return forward(norm, x)
                return torch.cat([forward(norm, view) for view in x.chunk(self._views)])

        norm.forward = types.MethodType(by_view, norm)


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
