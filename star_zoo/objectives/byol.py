"""BYOL (Grill et al., NeurIPS 2020): a prediction from each view matches a momentum copy's embedding of the other.

Letters: D features, O embedding size. Section 3: projector and predictor of one hidden layer, 4,096 wide on ResNet-50
features of 2,048, onto 256; the momentum rises from 0.996 to 1. The loss is the mean negative cosine, a linear function
of the paper's squared distance (eq. 2). Source: the paper from memory; its text could not be read.
"""

from ..augmentations import Policy
from ..heads import mlp
from . import _papers
from ._agreeing import TwoViews
from ._agreements import PredictedCosine


class BYOL(TwoViews):
    """BYOL: negative cosine, a predictor, and targets of a momentum copy of encoder and projector."""

    papers = (_papers.BYOL,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        momentum: float = 0.996,  # of the copies at the start, for 1,000 epochs of ImageNet; less for few, e.g. 0.99
        hidden: int | None = None,  # width of the hidden layers of projector and predictor; None: 2 * num_features
        embed_dim: int = 256,  # O, width of the embedding
    ):
        hidden = hidden or 2 * num_features
        super().__init__(
            policy, mlp(num_features, hidden, embed_dim), PredictedCosine(embed_dim, hidden, momentum=momentum)
        )
