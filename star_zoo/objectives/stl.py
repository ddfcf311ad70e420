"""STL (Yu et al., NeurIPS 2024, arXiv 2501.08712): equivariance to transformations that are learned without labels.

Letters: B images, D features, O embedding size, R size of a transformation's representation, P augmentation parameters.
The loss, the weights and the heads' depth follow the authors' code (jaemyung-u/stl, MIT); our heads' last layers have a
bias. Any augmentation can be used, because the params are never read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augmentations import Policy
from ..heads import EMBED_DIM, mlp
from ..losses import nt_xent
from . import _papers
from ._base import FeatureObjective


class STL(FeatureObjective):
    """Pairs of images share two transformations; one image's features change as those of its partner did.

    A network represents the transformation between the two views of an image. Each view is predicted from the other
    view by the linear map that a hypernetwork makes from the representation of the partner's transformation, so that
    the representation can't encode the image. The three terms are the agreement of the views, of each view with its
    prediction, and of the two partners' transformations.
    """

    papers = (_papers.STL,)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    share = 2

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,  # of all three terms
        equivariant_weight: float = 1.0,  # of the equivariant term
        transformation_weight: float = 0.1,  # of the term of the transformations
        hidden: int | None = None,  # width of the projectors' hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of the embedding
        transformation_dim: int = 128,  # R, width of the encoded transformation; the hypernetwork has R * D^2 weights
    ):
        super().__init__(policy)
        self.temperature = temperature
        self.equivariant_weight, self.transformation_weight = equivariant_weight, transformation_weight
        width = hidden or num_features
        self.invariant = mlp(num_features, width, embed_dim)
        self.equivariant = mlp(num_features, width, embed_dim)
        self.transformation = mlp(2 * num_features, transformation_dim, transformation_dim)
        self.project_transformation = mlp(transformation_dim, transformation_dim, embed_dim)
        self.moved = Moved(num_features, transformation_dim)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of two draws, which two images share: (2, P)."""
        return self.policy.draws(2, height, width, generator)

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Returns the three weighted terms for two views; images 2i and 2i + 1 are partners."""
        y1, y2 = features
        t12, t21 = (self.transformation(torch.cat(pair, 1)) for pair in ((y1, y2), (y2, y1)))
        predicted = self.moved(y2, partners(t21)), self.moved(y1, partners(t12))
        z, z_predicted = (torch.cat([self.equivariant(y) for y in views]) for views in ((y1, y2), predicted))
        even, odd = (self.project_transformation(torch.cat((t12[k::2], t21[k::2]))) for k in (0, 1))
        return {
            "invariant": nt_xent(self.invariant(y1), self.invariant(y2), self.temperature),
            "equivariant": self.equivariant_weight * nt_xent(z, z_predicted, self.temperature),
            "transformation": self.transformation_weight * nt_xent(even, odd, self.temperature),
        }

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the invariant and the equivariant projection as "z_inv" and "z_eq": (B, D) -> (B, O) each."""
        return {"z_inv": self.invariant(features), "z_eq": self.equivariant(features)}


class Moved(nn.Module):
    """Applies to features the linear map that a bias-free hypernetwork makes of t: (B, D), (B, R) -> (B, D)."""

    def __init__(self, num_features: int, transformation_dim: int):
        super().__init__()
        self.hypernetwork = nn.Linear(transformation_dim, num_features**2, bias=False)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        # one product with the outer products of features and t, instead of a D x D matrix for each image
        outer = (features[:, :, None] * t[:, None, :]).flatten(1)
        return F.linear(outer, self.hypernetwork.weight.view(features.shape[1], -1))


def partners(x: Tensor) -> Tensor:
    """Returns the rows with those of each pair swapped: (B, R) -> (B, R). B must be even."""
    return x.view(-1, 2, x.shape[1]).flip(1).flatten(0, 1)
