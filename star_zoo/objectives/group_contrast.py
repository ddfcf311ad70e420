"""Contrast up to a group: two views agree if some turn of one embedding is near the other (Mukuta & Harada, 2023).

Letters: N embeddings, M embeddings to compare with, D features, O embedding size, P augmentation parameters,
G elements of the group.
Source: "Self-Supervised Learning for Group Equivariant Neural Networks" (arXiv 2303.04427): an invariant contrastive
loss, which absorbs the transformation of each input. Only its abstract could be read; the similarity, the negatives and
the temperature are ours.
"""

import functools

import torch
from torch import Tensor

from star_catalog.names import not_found

from ..augmentations import Policy
from ..batch import Batch
from ..encoder import Encoder
from ..groups import Group
from ..heads import EMBED_DIM, mlp
from ..losses import nt_xent
from . import _papers
from ._group import GroupObjective, by_element

POOLS = ("max", "logsumexp")


class GroupContrast(GroupObjective):
    """SimCLR with the similarity of two orbits; turning either view by an element of the group changes no term.

    Unlike SimCLR on the invariant features, it compares the relation of the elements to one another.
    """

    papers = (_papers.GROUPS,)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,  # of nt_xent, and of logsumexp
        pool: str = "max",  # over the elements: "max" or its smooth form "logsumexp"
        hidden: int | None = None,  # width of the head's hidden layers; None: num_features
        embed_dim: int = EMBED_DIM,  # O, width of the embedding
    ):
        if pool not in POOLS:
            raise ValueError(not_found("pool", pool, POOLS))
        super().__init__(policy)
        self.temperature, self.pool = temperature, pool
        self.heads = mlp(num_features, hidden or num_features, hidden or num_features, embed_dim)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of two draws: (2, P)."""
        return self.policy.draws(2, height, width, generator)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"invariant": ...}."""
        regular = encoder.regular([encoder.augment(batch, view) for view in range(2)])
        z1, z2 = (by_element(self.heads, z).flatten(1) for z in regular)  # batch norm treats each view separately
        similarity = functools.partial(
            orbit_similarity, group=self.group, temperature=self.temperature if self.pool == "logsumexp" else None
        )
        return {"invariant": nt_xent(z1, z2, self.temperature, similarity)}

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the head's output on the invariant features, the mean over the elements, as "z_inv"."""
        return {"z_inv": self.heads(features)}


def orbit_similarity(a: Tensor, b: Tensor, group: Group, temperature: float | None) -> Tensor:
    """Returns the largest product over elements g of <g a, b>: (N, O*G), (M, O*G) -> (N, M).

    With a temperature t, returns its smooth form, t log sum over g of exp(<g a, b> / t).
    """
    rows = a.view(len(a), -1, group.order)
    products = torch.stack([group.act_on_features(rows, g).flatten(1) @ b.T for g in range(group.order)])
    return products.amax(0) if temperature is None else temperature * (products / temperature).logsumexp(0)
