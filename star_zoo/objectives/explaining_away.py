"""Explaining away: rotation prediction with class information added to the features or removed from them.

Letters: B images, D features.
Source: "Understanding the Role of Equivariance in Self-supervised Learning" (NeurIPS 2024, arXiv 2411.06508): if the
class helps to predict the rotation, then features learn the class. The authors remove it by alternating two steps, of
which the first raises the label loss and the second trains the classifier alone. Here one step does both by a gradient
reversal (Ganin & Lempitsky, ICML 2015), which is our choice.
"""

import torch
from torch import Tensor

from ..augmentations import Flip, Policy
from . import _papers
from ._transformation import TransformationObjective

_SIGNS = {"normal": 0.0, "add": 1.0, "eliminate": -1.0}


class ExplainingAway(TransformationObjective):
    """Rotation prediction beside a linear classifier of the labels, whose gradient reaches the backbone by `mode`.

    normal: not at all; add: as it is; eliminate: reversed, so that the features lose the classes. In each mode the
    classifier itself is trained to classify. Raises ValueError for an unknown mode.
    """

    papers = (_papers.ROLE_OF_EQUIVARIANCE,)
    tags = (_papers.EQUIVARIANCE,)

    kept = (Flip,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        mode: str = "normal",  # the gradient from the classifier to the backbone: "normal" (none), "add" or "eliminate"
        augment: bool = False,  # whether the policy's other augmentations act too; the authors have a crop and a flip
        label_weight: float = 1.0,  # factor of the gradient from the classifier to the backbone; released code
        hidden: int = 2048,  # width of the rotation head's hidden layer; released code
        num_classes: int = 1000,  # outputs of the classifier: at least as many as there are classes
    ):
        if mode not in _SIGNS:
            raise ValueError(f"mode is {mode!r}; known: {', '.join(_SIGNS)}")
        super().__init__(num_features, policy, "rotation", augment, hidden, num_classes)
        self.label_gradient = _SIGNS[mode] * label_weight

    def label_terms(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns {"label": ...}; its gradient to the features is multiplied by `label_gradient`."""
        return {"label": self.classifier.loss(scale_gradient(features, self.label_gradient), target)}


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Returns x, whose gradient is multiplied by `factor`."""
    return torch.add(x.detach(), x - x.detach(), alpha=factor)
