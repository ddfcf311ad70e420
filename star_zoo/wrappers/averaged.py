"""Feature averaging (Foster et al., arXiv 2010.09515): the mean of a backbone's features over augmented views.

Letters: B images, V views, S image size, D features, P augmentation parameters.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor

from ..augmentations import Policy
from ..augmentations.base import constants
from ..augmentations.spirograph import Spirograph
from ..objectives import Objective
from ._base import Wrapper

_MOST = 1000  # views, which are drawn one by one
_data: Any = timm.data  # untyped


class Averaged(Wrapper):
    """The mean of the features over views that the policy draws, at test time as in training.

    Each image of a batch has its own draws, the same in every batch: equal batches have equal features. Under a policy
    that renders spirographs, the input are the objects (B, 4, 1, 1).
    """

    draws = True

    def __init__(self, backbones: Sequence[Any], policy: Policy, objective: Objective | None = None, *, views: int = 8):
        super().__init__(backbones, policy)
        if not 1 <= views <= _MOST:
            raise ValueError(f"views of Averaged is {views}; it must be at least 1, and at most {_MOST}")
        if self.takes_objects:
            raise ValueError(
                "Averaged takes a model of images; this one renders objects, and averages their views already"
            )
        self.views = views
        config = _data.resolve_model_data_config(self)
        self._normalisation = config["mean"], config["std"]  # of the images, not rounded when the model is converted
        self.takes_objects = isinstance(policy.augmentations[0], Spirograph)
        if self.takes_objects:
            self.pretrained_cfg |= {"input_size": (4, 1, 1), "mean": (0.0,) * 4, "std": (1.0,) * 4, "crop_pct": 1.0}

    def arguments(self) -> dict[str, Any]:
        return {"views": self.views}

    def draw(self, count: int, height: int, width: int) -> Tensor:
        """Returns the params of the views of so many images of this size: (V, B, P)."""
        generator = torch.Generator().manual_seed(0)
        rows = self.policy.draws(count * self.views, height, width, generator)
        return rows.view(count, self.views, -1).transpose(0, 1)

    def view(self, x: Tensor, params: Tensor) -> Tensor:
        """Returns one view of each image, normalised: (B, 3, S, S), (B, P) -> (B, 3, S, S); differentiable in both."""
        with torch.autocast(x.device.type, enabled=False):  # params have more digits than bfloat16 keeps
            mean, std = (constants(x.float(), values)[:, None, None] for values in self._normalisation)
            images = x if self.takes_objects else (x.float() * std + mean) * 255
            framed = [self.policy.crop(image, row) for image, row in zip(images, params, strict=True)]
            return self.policy.apply(torch.stack(framed), params.to(x.device))

    def forward_features(self, x: Tensor) -> Tensor:
        if self.takes_objects and x.shape[1:] != (4, 1, 1):
            raise ValueError(f"this model renders objects, (B, 4, 1, 1); its input has the shape {tuple(x.shape)}")
        features = [self.backbones[0](self.view(x, params).to(x.dtype)) for params in self.draw(len(x), *x.shape[-2:])]
        return torch.stack(features).mean(0)
