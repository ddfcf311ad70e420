"""Invariant projections of regular features: maps s with s(g z) = s(z) for every element g of a group.

Features in the regular representation describe an image together with its pose: an orbit of codes for one content.
Neighbours and interpolations are meaningful after a projection, which removes the pose.

Source: "Interpreting Equivariant Representations" (ICML 2024, arXiv 2401.12588), whose body could not be read; the
definitions of the kinds are ours.
Letters: B images, D features, G elements of the group, O projected features.
"""

import torch
from torch import Tensor, nn

from star_catalog.names import not_found

from ..groups import Group

KINDS = ("mean", "max", "sort", "cross_section", "random_linear", "random_max")
_SEED = 0  # seed of the random weights, fixed so that equal settings have equal projections


class Projection(nn.Module):
    """A projection of one of `KINDS`: (B, D, G) -> (B, O).

    mean, max        over the elements; O = D
    sort             sorts the G values of each feature; O = D * G. Features lose their common order
    cross_section    moves the element with the largest sum over features to the identity; O = D * G. It loses nothing
                     but the pose
    random_linear    the mean over g of W(g z), with W of normal numbers of variance 1 / O; O = `width`
    random_max       the maximum over g of W(g z)

    Raises ValueError for an unknown kind or a width below 1.
    """

    weight: Tensor | None  # W, (O, D * G)

    def __init__(self, kind: str, group: Group, num_features: int, width: int = 64):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(not_found("kind of projection", kind, KINDS))
        if width < 1:
            raise ValueError(f"width of the projection is {width}; it must be at least 1")
        self.kind, self.group = kind, group
        size, weight = num_features * group.order, None
        self.num_features = {"mean": num_features, "max": num_features}.get(kind, size)
        if kind.startswith("random"):
            self.num_features, generator = width, torch.Generator().manual_seed(_SEED)
            weight = torch.randn(width, size, generator=generator, device="cpu") / width**0.5
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        match self.kind:
            case "mean":
                return z.mean(2)
            case "max":
                return z.amax(2)
            case "sort":
                return z.sort(2).values.flatten(1)
            case "cross_section":
                return cross_section(self.group, z).flatten(1)
        assert self.weight is not None
        orbit = torch.stack([self.group.act_on_features(z, g).flatten(1) for g in range(self.group.order)])
        projected = orbit @ self.weight.T.to(z.dtype)  # (G, B, O)
        return projected.amax(0) if self.kind == "random_max" else projected.mean(0)

    def extra_repr(self) -> str:
        """Returns the settings, for the printed module."""
        return f"{self.kind}, {self.group.name}, num_features={self.num_features}"


def cross_section(group: Group, z: Tensor) -> Tensor:
    """Moves the element with the largest sum over features to the identity: (B, D, G) -> (B, D, G).

    The result is the element of z's orbit that represents it: g^-1 z, where g has the largest sum.
    """
    largest = z.sum(1).argmax(1)
    orbit = torch.stack([group.act_on_features(z, group.inverse(g)) for g in range(group.order)], 1)
    return orbit.gather(1, largest[:, None, None, None].expand(-1, 1, *z.shape[1:])).squeeze(1)
