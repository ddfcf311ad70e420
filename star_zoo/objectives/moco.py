"""MoCo v2 (He et al., CVPR 2020; Chen et al., arXiv 2003.04297): contrast with a queue of a momentum copy's embeddings.

Letters: D features, O embedding size, K rows of the queue. The head has one hidden layer and no batch norm (v2).
Differences from the paper: both views are queries, each with the other's key, because both are encoded anyway; and
batches are not shuffled over the processes. On CUDA, batch norm is synchronised over the processes instead.
Source: the papers from memory; their text could not be read.
"""

from torch import nn

from ..augmentations import Policy
from ..heads import EMBED_DIM
from . import _papers
from ._agreeing import TwoViews
from ._agreements import QueuedContrast


class MoCo(TwoViews):
    """MoCo v2: InfoNCE whose negatives are the last K embeddings of a momentum copy of encoder and head."""

    papers = (_papers.MOCO, _papers.MOCO_V2)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,  # of the cross entropy over the queue
        momentum: float = 0.999,  # of the copies; constant
        queue_size: int = 4096,  # K, rows of the queue; 65,536 for ImageNet. Must be smaller than the data set
        hidden: int | None = None,  # width of the head's hidden layer; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of the embedding
    ):
        hidden = hidden or num_features
        heads = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, embed_dim))
        super().__init__(policy, heads, QueuedContrast(embed_dim, temperature, queue_size, momentum))
