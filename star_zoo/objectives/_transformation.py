"""Prediction of the transformation of a view, which `transform_prediction` and `explaining_away` share.

Letters: B images, D features, P augmentation parameters, K transformations, H hidden width.
Source: "Understanding the Role of Equivariance in Self-supervised Learning" (NeurIPS 2024, arXiv 2411.06508). Losses,
heads and transformations are those of the authors' released code; it doesn't state the blur's standard deviations,
which are torchvision's for kernels of 5, 9 and 15 pixels, here with one kernel of 15.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..augmentations import Augmentation, Blur, Flip, Grayscale, Invert, Jigsaw, Policy, QuarterTurn, VerticalFlip
from ..batch import Batch
from ..encoder import Encoder
from ._base import Objective
from ._labels import LabelHead


class Transformation(NamedTuple):
    """An augmentation that draws each of K values of its field equally often."""

    augmentation: Augmentation
    values: tuple[float, ...]


_SIGMAS = (0.0, 1.1, 1.7, 2.6)  # pixels: none, and 0.3 * ((k - 1) / 2 - 1) + 0.8 for kernels of k = 5, 9 and 15
_BINARY = (0.0, 1.0)
TRANSFORMATIONS = {
    "rotation": Transformation(QuarterTurn(p=1.0), (0.0, 1.0, 2.0, 3.0)),
    "horizontal_flip": Transformation(Flip(p=0.5), _BINARY),
    "vertical_flip": Transformation(VerticalFlip(p=0.5), _BINARY),
    "grey": Transformation(Grayscale(p=0.5), _BINARY),
    "inversion": Transformation(Invert(p=0.5), _BINARY),
    "jigsaw": Transformation(Jigsaw(p=1.0), tuple(map(float, range(24)))),
    "blur": Transformation(Blur(kernel=15, p=1.0, levels=_SIGMAS), _SIGMAS),
}


class TransformationObjective(Objective):
    """Predicts which of K values a transformation's field has, from one view; a subclass adds a term of the labels.

    The constructor includes the transformation in the policy. As in the authors' study, of the policy's other
    augmentations only those that make the view act, i.e. the crop, and those of the types `kept`; with `augment`, all
    of them do. Raises ValueError for an unknown kind.
    """

    kept: tuple[type[Augmentation], ...] = ()

    values: Tensor

    def __init__(self, num_features: int, policy: Policy, kind: str, augment: bool, hidden: int, num_classes: int):
        if kind not in TRANSFORMATIONS:
            raise ValueError(not_found("transformation", kind, TRANSFORMATIONS))
        augmentation, values = TRANSFORMATIONS[kind]
        policy = policy if augment else policy.only(*self.kept)
        super().__init__(policy.including(augmentation))
        self.column = self.policy.fields.index(augmentation.fields[0])
        self.register_buffer("values", torch.tensor(values))
        self.heads = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, len(values)))
        self.classifier = LabelHead(num_features, num_classes)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of one draw: (1, P)."""
        return self.policy.draws(1, height, width, generator)

    def transformed(self, params: Tensor) -> Tensor:
        """Returns the number of each view's transformation: (B, P) -> (B,) int64."""
        return (params[:, self.column, None] - self.values).abs().argmin(1)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"transformation": ...} and the terms of `label_terms`; without labels, the former alone."""
        (features,) = encoder([encoder.augment(batch, 0)])
        term = F.cross_entropy(self.heads(features).float(), self.transformed(batch.params[0]))
        if batch.target is None:
            return {"transformation": term + self.classifier.unused(features)}
        return {"transformation": term, **self.label_terms(features, batch.target)}

    def label_terms(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns the terms of the labels: features (B, D), classes (B,) or numbers."""
        raise NotImplementedError

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the logits of the K transformations as "transformation": (B, D) -> (B, K)."""
        return {"transformation": self.heads(features)}
