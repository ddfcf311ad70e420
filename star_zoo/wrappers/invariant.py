"""Invariant features of any backbone, by a projection of its regular features or of its features of turned images.

Letters: B images, S image size, D features, G elements of the group, O projected features.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import groups
from ..augmentations import Policy
from ..groups import Group
from ..objectives import Objective
from ..symmetry.projections import Projection
from ._base import Wrapper


class Invariant(Wrapper):
    """Features that don't change when the images are turned by an element of the group: (B, 3, S, S) -> (B, O).

    `kind` is the projection, see `star_zoo.symmetry.projections`; `width` is O of the random kinds. A backbone that has
    a group is projected from its regular features, and any other from its features of each image in all G poses, which
    takes G passes. Raises ValueError for a group that is not the backbone's.
    """

    def __init__(
        self,
        backbones: Sequence[Any],
        policy: Policy,
        objective: Objective | None = None,
        *,
        kind: str = "sort",
        group: str = "c4",
        width: int = 64,
    ):
        super().__init__(backbones, policy)
        if self.takes_objects:
            raise ValueError("Invariant takes a model of images; this one renders objects, which can't be turned")
        self.group = groups.find(group)
        check_group(backbones[0], self.group)
        self.kind, self.width = kind, width
        self.projection = Projection(kind, self.group, width_of(backbones[0]), width)
        self.num_features = self.head_hidden_size = self.projection.num_features
        self.reset_classifier(0)

    def arguments(self) -> dict[str, Any]:
        return {"kind": self.kind, "group": self.group.name, "width": self.width}

    def forward_features(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.projection(regular_features(self.backbones[0], x, self.group)))


def own_group(backbone: nn.Module) -> Group | None:
    """Returns the group that acts on a backbone's `regular_features`; None if it has none."""
    return cast(Group, backbone.group) if hasattr(backbone, "regular_features") else None


def check_group(backbone: nn.Module, group: Group) -> None:
    """Raises ValueError if the backbone has another group than the given one."""
    own = own_group(backbone)
    if own is not None and own != group:
        raise ValueError(f"group is {group.name}; this model's regular features are {own.name}'s: use group={own.name}")


def width_of(backbone: Any) -> int:
    """Returns D of `regular_features`."""
    return int(backbone.num_features if own_group(backbone) else backbone.head_hidden_size)


def regular_features(backbone: Any, x: Tensor, group: Group) -> Tensor:
    """Returns features that turning the images by g moves by `group.act_on_features(..., g)`: (B, D, G).

    They are a group backbone's own; else z(g) = f(g^-1 x) for the backbone's features f.
    """
    if own_group(backbone):
        return cast(Tensor, backbone.regular_features(x))
    poses = (group.act_on_images(x, group.inverse(g)) for g in range(group.order))
    return torch.stack([backbone(pose) for pose in poses], 2)
