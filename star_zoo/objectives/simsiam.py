"""SimSiam (Chen & He, CVPR 2021): a prediction from each view matches the stop-gradient embedding of the other.

Letters: D features, O embedding size. Section 3 and its baseline settings: a projector of three layers of 2,048 with
batch norm after each, a predictor with a bottleneck of 512, on ResNet-50 features of 2,048; the defaults keep these
ratios to D. The learning rate of the predictor is not fixed, as it is in the paper's best setting.
Source: the paper from memory; its text could not be read.
"""

from ..augmentations import Policy
from ..heads import mlp
from . import _papers
from ._agreeing import TwoViews
from ._agreements import PredictedCosine


class SimSiam(TwoViews):
    """SimSiam: negative cosine, a predictor and a stopped gradient; neither negatives nor a momentum copy."""

    papers = (_papers.SIMSIAM,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        hidden: int | None = None,  # width of the projector's hidden layers; None: num_features
        embed_dim: int | None = None,  # O, width of the embedding; None: num_features
        predictor_hidden: int | None = None,  # width of the predictor's hidden layer; None: a quarter of embed_dim
    ):
        hidden, embed_dim = hidden or num_features, embed_dim or num_features
        agree = PredictedCosine(embed_dim, predictor_hidden or max(1, embed_dim // 4))
        super().__init__(policy, mlp(num_features, hidden, hidden, embed_dim, norm=True), agree)
