"""Transformation prediction: one view, from which a head predicts its rotation, flip, jigsaw, ...

Letters: B images, D features.
Source: "Understanding the Role of Equivariance in Self-supervised Learning" (NeurIPS 2024, arXiv 2411.06508), the
study of transformations; with rotations it is RotNet (Gidaris et al., ICLR 2018).
"""

from torch import Tensor

from ..augmentations import Policy
from . import _papers
from ._transformation import TransformationObjective


class TransformPrediction(TransformationObjective):
    """Transformation prediction with an online probe: a linear classifier of the labels on detached features."""

    papers = (_papers.ROLE_OF_EQUIVARIANCE, _papers.ROTATIONS)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        kind: str = "rotation",  # the transformation; see `_transformation.TRANSFORMATIONS`
        augment: bool = False,  # whether the policy's other augmentations act too; the authors' study has a crop alone
        hidden: int = 2048,  # width of the head's hidden layer; released code
        num_classes: int = 1000,  # outputs of the probe: at least as many as there are classes
    ):
        super().__init__(num_features, policy, kind, augment, hidden, num_classes)

    def label_terms(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns {"probe": ...}, whose gradient does not reach the backbone."""
        return {"probe": self.classifier.loss(features.detach(), target)}
