"""Features of several backbones side by side. Letters: B images, S image size, D features of all backbones together."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from ..augmentations import Policy
from ..augmentations.base import constants
from ..objectives import Objective
from ._base import Wrapper

_data: Any = timm.data  # untyped


class Concat(Wrapper):
    """The features of two backbones or more, one after the other in the order given.

    Each backbone sees the images in its own size and normalisation, made from those of the first.
    """

    several = True

    def __init__(self, backbones: Sequence[Any], policy: Policy, objective: Objective | None = None):
        super().__init__(backbones, policy)
        if len({bool(getattr(backbone, "takes_objects", False)) for backbone in backbones}) > 1:
            raise ValueError("Concat takes models of one kind of input; some of these take images, others objects")
        configs = [_data.resolve_model_data_config(backbone) for backbone in backbones]
        self.sizes = [tuple(config["input_size"][1:]) for config in configs]
        if len({len(config["mean"]) for config in configs}) > 1:
            raise ValueError("Concat takes models of images with the same number of channels; these differ")
        self._normalisations = [(config["mean"], config["std"]) for config in configs]

    def arguments(self) -> dict[str, Any]:
        return {}

    def forward_features(self, x: Tensor) -> Tensor:
        views = (self.view(x, k) for k in range(len(self.backbones)))
        return torch.cat([backbone(view) for backbone, view in zip(self.backbones, views, strict=True)], 1)

    def view(self, x: Tensor, k: int) -> Tensor:
        """Returns the images as backbone `k` takes them: (B, 3, S_k, S_k)."""
        first, own = self._normalisations[0], self._normalisations[k]
        scale = [s / t for s, t in zip(first[1], own[1], strict=True)]
        shift = [(m - n) / t for m, n, t in zip(first[0], *own, strict=True)]
        x = x * constants(x, scale)[:, None, None] + constants(x, shift)[:, None, None]
        if x.shape[-2:] == self.sizes[k]:
            return x
        # torch resizes no bfloat16 on CPUs
        return F.interpolate(x.float(), self.sizes[k], mode="bilinear", antialias=True).to(x.dtype)
