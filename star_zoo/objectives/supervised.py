"""Supervised training on the labels of augmented views: the control for self-supervised methods.

Letters: B images, D features, C outputs, P augmentation parameters.
"""

import torch
from torch import Tensor

from ..augmentations import Policy
from ..batch import Batch
from ..encoder import Encoder
from ._base import Objective
from ._labels import LabelHead


class Supervised(Objective):
    """Cross entropy of classes, or mean squared error of numbers, by a linear layer on the features of one view."""

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        num_classes: int = 1000,  # C, outputs: at least as many as there are classes, or numbers of an image
    ):
        super().__init__(policy)
        self.classifier = LabelHead(num_features, num_classes)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of one draw: (1, P)."""
        return self.policy.draws(1, height, width, generator)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"label": ...}. Raises ValueError without labels."""
        if batch.target is None:
            raise ValueError("supervised needs labels, but the images have none; choose another objective or data set")
        (features,) = encoder([encoder.augment(batch, 0)])
        return {"label": self.classifier.loss(features, batch.target)}
