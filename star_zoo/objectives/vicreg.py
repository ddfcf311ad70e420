"""VICReg (Bardes, Ponce & LeCun, ICLR 2022): views agree, dimensions keep their variance and do not covary.

Letters: D features, O embedding size. Section 4: a projector of three layers of 8,192 on ResNet-50 features of 2,048;
the defaults keep this ratio to D. Source: the paper from memory; its text could not be read.
"""

import functools

from ..augmentations import Policy
from ..heads import mlp
from ..losses import vicreg
from . import _papers
from ._agreeing import TwoViews
from ._agreements import Mutual


class VICReg(TwoViews):
    """VICReg: invariance of two views' embeddings, variance and covariance of each one's dimensions."""

    papers = (_papers.VICREG,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        invariance: float = 25.0,  # weight of the distance between the views
        variance: float = 25.0,  # weight of the term that keeps the dimensions' standard deviations near 1
        covariance: float = 1.0,  # weight of the covariances between dimensions
        hidden: int | None = None,  # width of the projector's hidden layers; None: 4 * num_features
        embed_dim: int | None = None,  # O, width of the embedding; None: 4 * num_features
    ):
        hidden, embed_dim = hidden or 4 * num_features, embed_dim or 4 * num_features
        heads = mlp(num_features, hidden, hidden, embed_dim, bias=False)
        loss = functools.partial(vicreg, invariance=invariance, variance=variance, covariance=covariance)
        super().__init__(policy, heads, Mutual(loss))
