"""Objectives on the regular features of a group backbone, which the elements of a group permute.

Letters: B images, D features, C channels, O outputs, G elements of the group.
"""

from typing import ClassVar

from torch import Tensor, nn

from ..encoder import Encoder
from ..groups import Group
from ._base import Objective


class GroupObjective(Objective):
    """An objective that reads `encoder.regular`; `group` is the backbone's, once it is attached."""

    needs_group: ClassVar[bool] = True

    group: Group

    def attach(self, encoder: Encoder) -> None:
        """Takes the backbone's group. Raises ValueError for a backbone without regular features."""
        self.group = encoder.group


def by_element(head: nn.Module, z: Tensor) -> Tensor:
    """Applies a head to the features of each element, with the same weights: (B, C, G) -> (B, O, G).

    The head maps rows, (B*G, C) -> (B*G, O). A permutation of the elements permutes the results; a batch norm in the
    head has one mean and variance per channel, over images and elements.
    """
    outputs: Tensor = head(z.mT.flatten(0, 1))
    return outputs.view(len(z), z.shape[2], -1).mT
