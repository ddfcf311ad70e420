"""CARE (Gupta et al., ICLR 2024): augmentations act on the embedding as orthogonal maps.

Letters: B images, N of them in a chunk, D features, O embedding size, P augmentation parameters.
The formula and the weights follow the authors' code (Sharut/CARE, MIT); the head is our SimCLR's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..augmentations import Policy
from ..heads import EMBED_DIM, mlp
from ..losses import nt_xent
from . import _papers
from ._base import FeatureObjective


class CARE(FeatureObjective):
    """SimCLR, and a term that keeps the angles between the images of a chunk, which share both augmentations.

    The angles between all embeddings stay the same under an augmentation if and only if it acts on them as an
    orthogonal map. The term doesn't read the params.
    """

    papers = (_papers.CARE,)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.5,  # of nt_xent
        equivariant_weight: float = 0.03,  # of its term: 0.03 for CIFAR-10, 0.01 for STL-10, 0.005 for ImageNet-100
        chunk: int = 8,  # N, images in a chunk; the authors' batches of 256 have chunks of 16 (CIFAR-10) or 32 (STL-10)
        hidden: int | None = None,  # width of the head's hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of the embedding
    ):
        super().__init__(policy)
        if chunk < 2:
            raise ValueError(f"chunk is {chunk}; it must be at least 2 images, because one has no angles to others")
        self.share = chunk
        self.temperature, self.equivariant_weight = temperature, equivariant_weight
        self.heads = mlp(num_features, hidden or num_features, hidden or num_features, embed_dim)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of two draws, which the images of a chunk share: (2, P)."""
        return self.policy.draws(2, height, width, generator)

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Returns {"invariant": ..., "equivariant": ...} for two views; a batch smaller than a chunk is one chunk."""
        z1, z2 = (self.heads(f) for f in features)
        equivariant = changed_angles(z1, z2, min(self.share, len(z1)))
        return {
            "invariant": nt_xent(z1, z2, self.temperature),
            "equivariant": self.equivariant_weight * equivariant,
        }

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the head's output as "z_inv", although it is trained for both terms: (B, D) -> (B, O)."""
        return {"z_inv": self.heads(features)}


def changed_angles(a: Tensor, b: Tensor, chunk: int) -> Tensor:
    """Returns twice the mean over i of the sum over j of (<a_i, a_j> - <b_i, b_j>)^2, with i and j of one chunk.

    (B, O), (B, O) -> scalar, float32; the rows are scaled to unit length. B must be a multiple of `chunk`.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (F.normalize(z.float(), dim=1).view(-1, chunk, z.shape[1]) for z in (a, b))
        return 2 * (a @ a.mT - b @ b.mT).square().sum(2).mean()
