"""Canonicalization: a canonicalizer learns the pose of images from upright ones.

Letters: B images, P augmentation parameters.
Source: the prior of Mondal et al. (2023) on the networks of `star_zoo.symmetry.canonicalizer`, which names its sources.
"""

import torch
from torch import Tensor

from .. import groups
from ..augmentations import Flip, Policy, QuarterTurn, VerticalFlip
from ..batch import Batch
from ..encoder import Encoder
from ..symmetry import canonicalizer
from ..symmetry.canonicalizer import prior
from . import _papers
from ._base import Objective


class Canonicalization(Objective):
    """The prior alone: every image is taken to be upright. `canonical:MODEL` uses the canonicalizer that was learned.

    Views aren't turned, and under D4 not flipped either. The backbone keeps its weights, e.g. those of `--init-from`,
    unless the canonicalizer scores its features.
    """

    papers = (_papers.CANONICALIZATION,)
    tags = (_papers.EQUIVARIANCE,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        group: str = "c4",  # "c4" or "d4"
        kind: str = "direct",  # "direct", "optimised" or "features"; see `star_zoo.symmetry.canonicalizer`
    ):
        super().__init__(policy)
        self.canonicalizer = canonicalizer.build(kind, groups.find(group), policy.channels, num_features)

    def attach(self, encoder: Encoder) -> None:
        """Freezes the backbone if the term has no gradient with respect to it."""
        if not self.canonicalizer.trains_backbone:
            encoder.requires_grad_(False)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of one upright draw: (1, P)."""
        turns = (QuarterTurn, VerticalFlip, *((Flip,) if self.canonicalizer.group is groups.D4 else ()))
        row, base = self.policy.draw(height, width, generator), self.policy.base(height, width)
        for kind in turns:
            if (columns := self.policy.columns.get(kind.__name__)) is not None:
                row[columns] = base[columns]
        return row[None]

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"prior": ...}."""
        backbone = encoder.backbone  # all poses in one pass of its batch norm, as when the model is used
        return {"prior": prior(*self.canonicalizer.activate(encoder.augment(batch, 0), backbone))}
