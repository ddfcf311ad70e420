"""The encoder that objectives receive: a backbone preceded by a policy's augmentations.

Letters: B images, V views of an image, S_v size of view v in pixels, C channels of images or maps, D features,
P augmentation parameters, G elements of the group.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .augmentations import Policy
from .backbone import Backbone, GroupBackbone
from .batch import Batch
from .groups import Group
from .view_norms import ViewNorms

_LARGE = 2_000_000  # pixel values of one view of a batch; 16 images of 224 px have 2.4 million


class Encoder(nn.Module):
    """A backbone preceded by the augmentations; batch norm treats each view separately.

    Small views of equal size pass through the backbone together, which is faster than one pass per view and computes
    the same result; large ones pass in turn, because a convolution's workspace grows with the batch of a pass.

    `copy.deepcopy` of an encoder returns an independent one; objectives make momentum copies this way.

    `backbone` is any module with the members of `Backbone`, e.g. a model of `timm.create_model`.
    """

    def __init__(self, policy: Policy, backbone: nn.Module | Backbone):
        super().__init__()
        self.policy = policy
        self.backbone = cast(Backbone, backbone)  # timm declares each of its models as nn.Module
        self._norms = ViewNorms(self.backbone)
        self._norms_frozen = False
        self.use_layout(channels_last=True)

    def use_layout(self, channels_last: bool) -> None:
        """Sets the memory format of weights and views: channels last, or contiguous."""
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        lay_out(self.backbone, self.memory_format)

    @property
    def device(self) -> torch.device:
        """The device of the backbone's weights."""
        return next(self.backbone.parameters()).device

    def synchronise_norms(self) -> None:
        """Installs the view norms again, which is required after batch norms are converted to synchronised ones."""
        self._norms = ViewNorms(self.backbone)

    def freeze_norms(self) -> None:
        """Makes the backbone's batch norms keep their running statistics and normalise by them, in train mode too.

        Their scales and shifts are still trained. Raises ValueError for a backbone without batch norm.
        """
        if not any(isinstance(module, _BatchNorm) for module in self.backbone.modules()):
            raise ValueError(f"{type(self.backbone).__name__} has no batch norm to freeze; leave freeze_norms out")
        self._norms_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """Sets train or eval mode; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self._norms_frozen:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def augment(self, batch: Batch, view: int) -> Tensor:
        """Returns one view of the batch, augmented and normalised: (B, C, S_v, S_v) float32.

        The result is differentiable in the params wherever the augmentations are.
        """
        images = batch.views[view]
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round the params
            x = self.policy.apply(images, batch.params[view])
        return x.contiguous(memory_format=self.memory_format)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Returns the pooled features of each view: V of (B, C, S_v, S_v) -> V of (B, D)."""
        return _together(self._norms, images)

    @property
    def group(self) -> Group:
        """The group that acts on the regular features. Raises ValueError for a backbone without them."""
        if not hasattr(self.backbone, "regular_features"):
            raise ValueError(
                f"{type(self.backbone).__name__} has no regular_features; this objective needs a "
                "backbone that has them: use one, e.g. --set backbone=star_c4_resnet10t"
            )
        return cast(GroupBackbone, self.backbone).group

    def regular(self, images: list[Tensor]) -> list[Tensor]:
        """Returns the regular features of each view: V of (B, C, S_v, S_v) -> V of (B, D, G).

        Only for a `GroupBackbone`. Under average pooling, calling the encoder returns their mean over the G elements
        of `group`.
        """
        return _together(self._norms.regular, images)

    def maps(self, images: list[Tensor], layers: Sequence[int]) -> list[list[Tensor]]:
        """Returns the intermediate feature maps of each view: V lists with one (B, C, H, W) per layer.

        `layers` are the `indices` of timm's `forward_intermediates`.
        """
        maps: list[Any] = [None] * len(images)
        for places in _by_shape(images):
            together = self._norms.intermediates(_joined(images, places), len(places), list(layers))
            by_layer = [x.chunk(len(places)) for x in together]
            for k, place in enumerate(places):
                maps[place] = [x[k] for x in by_layer]
        return maps


def lay_out(module: nn.Module | Backbone, memory_format: torch.memory_format) -> None:
    """Stores the weights and buffers of convolutions in a memory format, in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:  # 5-D weights, of e.g. LambdaNetworks, have another format
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


def _together(encode: Callable[[Tensor, int], Tensor], images: list[Tensor]) -> list[Tensor]:
    """Returns the features of each view, from one call of `encode` for the views of each shape."""
    features: list[Any] = [None] * len(images)
    for places in _by_shape(images):
        joined = encode(_joined(images, places), len(places))
        for place, x in zip(places, joined.chunk(len(places)), strict=True):
            features[place] = x
    return features


def _by_shape(images: list[Tensor]) -> list[list[int]]:
    """Returns the indices of the views, grouped by shape; each large view is a group of its own."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, x in enumerate(images):
        alone = (place,) if x.numel() >= _LARGE else ()
        groups.setdefault((*x.shape, *alone), []).append(place)
    return list(groups.values())


def _joined(images: list[Tensor], places: list[int]) -> Tensor:
    return torch.cat([images[k] for k in places]) if len(places) > 1 else images[places[0]]
