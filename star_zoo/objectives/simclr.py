"""SimCLR (Chen et al., ICML 2020): agreement between two augmented views.

Letters: B images, D features, O embedding size, P augmentation parameters.
"""

import functools
from typing import ClassVar

from ..augmentations import Policy
from ..heads import EMBED_DIM, mlp
from ..losses import nt_xent
from . import _papers
from ._agreeing import TwoViews
from ._agreements import Mutual


class SimCLR(TwoViews):
    """SimCLR with the three-layer head of STAR's experts."""

    papers: ClassVar[tuple[_papers.Paper, ...]] = (_papers.SIMCLR,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,  # of nt_xent
        hidden: int | None = None,  # width of the head's hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of the embedding
    ):
        hidden = hidden or num_features
        heads = mlp(num_features, hidden, hidden, embed_dim)
        super().__init__(policy, heads, Mutual(functools.partial(nt_xent, temperature=temperature)))
        self.temperature = temperature
