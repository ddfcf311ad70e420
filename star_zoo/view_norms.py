"""Batch norm with separate statistics for each view, while several views pass through the backbone together.

One pass over all views is faster than one pass per view, and with separate batch norm statistics it computes the same
result. Gradient checkpointing recomputes the activations during the backward pass; that second pass does not update the
running statistics.

Letters: B images, V views of an image, S view size in pixels, C channels of images or maps, D features, G elements of a
group.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .backbone import Backbone, GroupBackbone


class ViewNorms:
    """Runs a backbone on several views at once; its batch norms, of any type, treat each view separately.

    All view norms of one backbone are alike. While no call of theirs runs, batch norms see one view. Under gradient
    checkpointing, passes whose views have equal shapes must have equal numbers of views until the backward pass.
    """

    def __init__(self, backbone: Backbone):
        self._backbone = (backbone,)  # a tuple, so that the backbone is not a submodule
        self._passing: _Passing = vars(backbone).setdefault("_views_passing", _Passing())
        for norm in backbone.modules():
            if isinstance(norm, _BatchNorm):
                norm.forward = functools.partial(_by_view, norm, self._passing)  # type: ignore[method-assign]

    def __call__(self, images: Tensor, views: int) -> Tensor:
        """Returns the features of V views, one after another: (V*B, C, S, S) -> (V*B, D)."""
        with self._passing.of(views):
            return self._backbone[0](images)

    def intermediates(self, images: Tensor, views: int, layers: list[int]) -> list[Tensor]:
        """Returns the feature maps (V*B, C, H, W) of some layers, as timm's `forward_intermediates` does."""
        with self._passing.of(views):
            maps: list[Tensor] = self._backbone[0].forward_intermediates(
                images, indices=layers, stop_early=True, intermediates_only=True
            )
        return maps

    def regular(self, images: Tensor, views: int) -> Tensor:
        """Returns the regular features of V views of a `GroupBackbone`: (V*B, C, S, S) -> (V*B, D, G)."""
        with self._passing.of(views):
            return cast(GroupBackbone, self._backbone[0]).regular_features(images)


class _Passing:
    """The number of views that pass through a backbone together, which its batch norms share."""

    def __init__(self) -> None:
        self.views = 1
        self._seen: dict[tuple[int, torch.Size], int] = {}

    @contextlib.contextmanager
    def of(self, views: int) -> Iterator[None]:
        """Sets the number of views inside; outside, a call of the backbone has one."""
        self.views = views
        try:
            yield
        finally:
            self.views = 1

    def views_of(self, norm: nn.Module, shape: torch.Size, again: bool) -> int:
        """Returns the number of views in a norm's input; when recomputing, that of the forward pass."""
        if torch.compiler.is_compiling():
            return self.views
        if again:  # the forward pass is over
            return self._seen.get((id(norm), shape), self.views)
        self._seen[id(norm), shape] = self.views
        return self.views


def _by_view(norm: _BatchNorm, passing: _Passing, x: Tensor) -> Tensor:
    forward = type(norm).forward
    if not norm.training:
        return forward(norm, x)
    again = _recomputing()
    views = passing.views_of(norm, x.shape, again)
    with _uncounted(norm) if again else contextlib.nullcontext():
        return forward(norm, x) if views == 1 else torch.cat([forward(norm, view) for view in x.chunk(views)])


def _recomputing() -> bool:
    """Returns whether a backward pass runs this forward pass; False if compiled, because no buffer changes then."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextlib.contextmanager
def _uncounted(norm: nn.Module) -> Iterator[None]:
    """Discards the updates of a batch norm's running statistics that are made inside."""
    kept = dict(norm._buffers)
    norm._buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in kept.items()})
    try:
        yield
    finally:
        norm._buffers.update(kept)
