"""The backbone under a policy, as objectives see it.

Letters: B images, V views of an image, S_v size of view v in pixels, D features, C channels, P augmentation parameters.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .augmentations import Policy
from .view_norms import ViewNorms

if TYPE_CHECKING:
    from .objectives import Batch


class Encoder(nn.Module):
    """A backbone with the augmentations before it; batch norm takes each view on its own.

    Views of one size pass through the backbone together, which computes the same as one pass a view in less time.
    `copy.deepcopy` of an encoder is independent of it, which is how objectives make momentum copies.
    """

    def __init__(self, policy: Policy, backbone: nn.Module):
        super().__init__()
        self.policy = policy
        self.backbone: Any = backbone
        self._norms = ViewNorms(backbone)
        self.use_layout(channels_last=True)

    def use_layout(self, channels_last: bool) -> None:
        """Lays out weights and views with channels last in memory, or contiguously."""
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)

    def synchronise_norms(self) -> None:
        """Installs the view norms anew, after batch norms were replaced by synchronised ones."""
        self._norms = ViewNorms(self.backbone)

    def augment(self, batch: "Batch", view: int) -> Tensor:
        """Returns one view of the batch, augmented and normalised: (B, 3, S_v, S_v) float32.

        Differentiable in the params as far as the augmentations are.
        """
        images = batch.views[view]
        with torch.autocast(images.device.type, enabled=False):  # params have more digits than bfloat16 keeps
            x = self.policy.apply(images, batch.params[view])
        return x.contiguous(memory_format=self.memory_format)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Returns the pooled features of V views, (B, 3, S_v, S_v) each: V of (B, D)."""
        features: list[Any] = [None] * len(images)
        for places in _by_shape(images):
            together = self._norms(_joined(images, places), len(places))
            for place, found in zip(places, together.chunk(len(places)), strict=True):
                features[place] = found
        return features

    def maps(self, images: list[Tensor], layers: Sequence[int]) -> list[list[Tensor]]:
        """Returns intermediate maps of V views: V lists with one (B, C, H, W) for each layer.

        `layers` are indices as timm's `forward_intermediates` takes them.
        """
        maps: list[Any] = [None] * len(images)
        for places in _by_shape(images):
            found = self._norms.intermediates(_joined(images, places), len(places), list(layers))
            by_layer = [x.chunk(len(places)) for x in found]
            for k, place in enumerate(places):
                maps[place] = [x[k] for x in by_layer]
        return maps


def _by_shape(images: list[Tensor]) -> list[list[int]]:
    """Returns the places of views that have one shape, list by list."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, x in enumerate(images):
        groups.setdefault(tuple(x.shape), []).append(place)
    return list(groups.values())


def _joined(images: list[Tensor], places: list[int]) -> Tensor:
    return torch.cat([images[k] for k in places]) if len(places) > 1 else images[places[0]]
