"""Barlow Twins (Zbontar et al., ICML 2021): two views' embeddings correlate by dimension, and dimensions do not.

Letters: D features, O embedding size. Section 2 and the authors' settings: a projector of three layers of 8,192 on
ResNet-50 features of 2,048; the defaults keep this ratio to D. Source: the authors' code
(facebookresearch/barlowtwins, MIT).
"""

import functools

from ..augmentations import Policy
from ..heads import mlp
from ..losses import barlow_twins
from . import _papers
from ._agreeing import TwoViews
from ._agreements import Mutual


class BarlowTwins(TwoViews):
    """Barlow Twins: the cross-correlation matrix of two views' embeddings approaches the identity."""

    papers = (_papers.BARLOW_TWINS,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        weight: float = 5e-3,  # lambda, of the off-diagonal elements
        hidden: int | None = None,  # width of the projector's hidden layers; None: 4 * num_features
        embed_dim: int | None = None,  # O, width of the embedding; None: 4 * num_features
    ):
        hidden, embed_dim = hidden or 4 * num_features, embed_dim or 4 * num_features
        heads = mlp(num_features, hidden, hidden, embed_dim, bias=False)
        super().__init__(policy, heads, Mutual(functools.partial(barlow_twins, weight=weight)))
