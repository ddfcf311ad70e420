"""CIPER (Xu & Triesch, 2023): SimCLR, and a head that predicts how the params of the two views differ.

Letters: B images, D features, P augmentation parameters.
Source: arXiv 2302.02330, of which only the abstract could be read; the predictor, its target and its weight are those
of the module `Ciper` in the same lab's repository trieschlab/AASSL (MIT). The original's code was not found.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augmentations import Policy
from ..heads import mlp
from . import _papers
from .simclr import SimCLR


class Ciper(SimCLR):
    """The two views and the term of `simclr`, plus regression of the difference of the params from both features.

    The target is standardised by the batch, so that the term is one minus the R2 of the prediction.
    """

    papers = (_papers.CIPER,)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        predictor_hidden: int = 1024,  # width of the predictor's hidden layer; AASSL
        prediction_weight: float = 1.0,  # of the prediction term; AASSL
        **shared: Any,
    ):
        super().__init__(num_features, policy, **shared)
        self.prediction_weight = prediction_weight
        self.predictor = mlp(2 * num_features, predictor_hidden, len(policy.fields))
        self.standardize = nn.BatchNorm1d(len(policy.fields), affine=False)

    def terms(
        self, features: list[Tensor], params: list[Tensor], targets: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns {"invariant": ..., "equivariant": ...} for two views."""
        predicted = self.predictor(torch.cat(features, 1)).float()
        loss = F.mse_loss(predicted, self.standardize(params[1] - params[0]))
        return {**super().terms(features, params, targets), "equivariant": self.prediction_weight * loss}
