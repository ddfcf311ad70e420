"""Equivariant pretext labels: turning an image permutes the labels as it permutes the logits (Mukuta & Harada, 2023).

Letters: B images, D features, K labels, G elements of the group, P augmentation parameters.
Source: "Self-Supervised Learning for Group Equivariant Neural Networks" (arXiv 2303.04427): pretext labels on which
the group acts. Only its abstract could be read; the actions, for C4 and for D4, and the head are ours.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from star_catalog.names import not_found

from ..augmentations import Blur, ColorJitter, Flip, Grayscale, Invert, Policy, Solarize
from ..batch import Batch
from ..encoder import Encoder
from ..groups import Group
from ..heads import mlp
from . import _papers
from ._group import GroupObjective, by_element
from ._transformation import TRANSFORMATIONS

# a vertical flip or a second turn would make labels false, e.g. that of an upright image half a turn
_KEPT = (Flip, ColorJitter, Grayscale, Solarize, Invert, Blur)


class GroupLabels(GroupObjective):
    """Predicts the quarter turn of a view, or the order of its four quadrants, with equivariant logits.

    The objective itself draws the transformation, after the policy's crop, flip, colours and blur; it removes other
    turns, vertical flips and jigsaws from the policy. Because the logits are equivariant, the loss of a view stays the
    same when the view and its label are turned.
    """

    papers = (_papers.GROUPS,)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    labels: Tensor

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        kind: str = "rotation",  # "rotation", K = 4 classes, or "jigsaw", K = 24
        hidden: int | None = None,  # width of the head's hidden layer; None: num_features
    ):
        if kind not in ACTIONS:
            raise ValueError(not_found("kind of label", kind, ACTIONS))
        augmentation, values = TRANSFORMATIONS[kind]
        super().__init__(policy.only(*_KEPT).including(augmentation))
        self.kind, self.column = kind, self.policy.fields.index(augmentation.fields[0])
        self.heads = mlp(num_features, hidden or num_features, len(values))

    def attach(self, encoder: Encoder) -> None:
        """Makes the table of permuted labels. Raises ValueError for a backbone without regular features."""
        super().attach(encoder)
        actions = [ACTIONS[self.kind](self.group, g) for g in range(self.group.order)]
        labels = torch.tensor(actions, device=encoder.device).argsort(1)  # (G, K): what g maps to each label
        self.register_buffer("labels", labels, persistent=False)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of one draw: (1, P)."""
        return self.policy.draws(1, height, width, generator)

    def logits(self, z: Tensor) -> Tensor:
        """Returns the logits of the labels, given regular features: (B, D, G) -> (B, K), in float32.

        The head computes K logits for each element. The result is their mean after the element's permutation of the
        labels, so that a permutation of the elements permutes the labels.
        """
        own = by_element(self.heads, z).float().mT  # (B, G, K)
        return own.gather(2, self.labels.expand(len(own), -1, -1)).mean(1)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"label": ...}."""
        (z,) = encoder.regular([encoder.augment(batch, 0)])
        return {"label": F.cross_entropy(self.logits(z), batch.params[0][:, self.column].round().long())}


def turned_rotations(group: Group, g: int) -> list[int]:
    """Returns the quarter turns of an image after `g`, for each number of quarter turns before: 4 of 0..3.

    A flipped photo counts as upright, so that a flip reverses the turn.
    """
    return [group.product(g, turns) % 4 for turns in range(4)]


def turned_orders(group: Group, g: int) -> list[int]:
    """Returns the number of the order of quadrants, relative to the image turned by `g`, for each order: 24 of 0..23.

    `g` puts quadrant s(k) at place k. Turning an image with the order p equals ordering the turned image by
    k -> s^-1(p(s(k))). Orders are numbered as in `Jigsaw`.
    """
    orders = list(itertools.permutations(range(4)))
    s = group.act_on_images(torch.arange(4, device="cpu").view(2, 2), g).flatten().tolist()
    return [orders.index(tuple(s.index(p[s[k]]) for k in range(4))) for p in orders]


ACTIONS = {"rotation": turned_rotations, "jigsaw": turned_orders}
