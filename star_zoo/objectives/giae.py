"""GIAE (Winter et al., NeurIPS 2022): an auto-encoder whose code is invariant, and whose pose turns its output.

Letters: B images, S view size in pixels, D features, E code width, G elements of the group, P augmentation parameters.
Source: "Unsupervised Learning of Group Invariant and Equivariant Representations" (arXiv 2202.07559), written from the
formulas. Ours: the exact version for C4 and D4, the straight-through choice of an element, the sizes of the decoder,
nearest instead of bilinear up-sampling, and replicated borders in rotated images. In a short trial on digits at random
angles, "so2" reconstructed worse than an auto-encoder without a pose; the authors train for thousands of epochs.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..augmentations import Policy
from ..batch import Batch
from ..encoder import Encoder
from ..groups import C4, D4
from ..symmetry.choice import straight_through, turn
from . import _papers
from ._group import GroupObjective, by_element

POSES = ("group", "so2")
_SMALLEST = 4  # pixels of the decoder's first map, at most


class Reconstruction(NamedTuple):
    """The auto-encoder's outputs for B images."""

    images: Tensor  # (B, 3, S, S), normalised: the canonical images in the pose of the inputs
    canonical: Tensor  # (B, 3, S, S), normalised: the same for all turned copies of an image
    pose: Tensor  # (B, G), 1 at the chosen element; or (B, 2), cosine and sine of the angle


class GIAE(GroupObjective):
    """Reconstructs a view from an invariant code, decoded in a canonical pose, and the view's own pose.

    The target is the augmented view as the backbone reads it, normalised. Turning a view by an element of the group
    keeps code and canonical image, and turns the reconstruction along: exactly with the pose "group", and for quarter
    turns to interpolation's rounding with "so2", which can describe other angles too.
    """

    papers = (_papers.GIAE,)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        pose: str = "group",  # "group": an element of the group; "so2": an angle, with C4
        code_dim: int = 64,  # E, width of the code
        hidden: int = 64,  # channels of the decoder
    ):
        if pose not in POSES:
            raise ValueError(not_found("pose", pose, POSES))
        super().__init__(policy)
        self.pose = pose
        self.code = nn.Linear(num_features, code_dim)
        self.pose_map = nn.Linear(num_features, 1, bias=False)  # a map with one channel, from which the pose is read
        self.decoder = decoder(code_dim, hidden, policy.channels, policy.size)

    def attach(self, encoder: Encoder) -> None:
        """Takes the backbone's group. Raises ValueError without one, and for angles with another group than C4."""
        super().attach(encoder)
        if self.pose == "so2" and self.group != C4:
            raise ValueError(
                f"pose is so2, but the backbone's group is {self.group.name}; an angle describes no flip: "
                "use pose=group, or a C4 backbone, e.g. star_c4_resnet10t"
            )

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Returns the params of one draw: (1, P)."""
        return self.policy.draws(1, height, width, generator)

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"reconstruction": ...}, the mean squared error of normalised pixels."""
        images = encoder.augment(batch, 0)
        (z,) = encoder.regular([images])
        return {"reconstruction": F.mse_loss(self.reconstruct(z).images.float(), images.float())}

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the code as "z_inv": (B, D) -> (B, E)."""
        return {"z_inv": self.code(features)}

    def reconstruct(self, z: Tensor) -> Reconstruction:
        """Returns the reconstructions of images, given their regular features: (B, D, G), elements of C4 or D4."""
        canonical = self.decoder(self.code(z.mean(2)))
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 scores would tie
            scores = by_element(self.pose_map, z.float())[:, 0]  # (B, G)
        if self.pose == "so2":
            pose = direction(scores)
            return Reconstruction(rotate(canonical, pose), canonical, pose)
        pose = straight_through(scores)
        group = C4 if z.shape[2] == C4.order else D4
        return Reconstruction(turn(canonical, pose, group), canonical, pose)


def decoder(code_dim: int, hidden: int, channels: int, size: int) -> nn.Sequential:
    """Returns a network that doubles the size of maps until they are images: (B, E) -> (B, C, S, S)."""
    sizes = [size]
    while sizes[0] > _SMALLEST:
        sizes.insert(0, math.ceil(sizes[0] / 2))
    start = sizes[0]
    layers: list[nn.Module] = [nn.Linear(code_dim, hidden * start**2), nn.Unflatten(1, (hidden, start, start))]
    for side in sizes[1:]:
        layers += [nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), nn.Upsample(side)]
        layers.append(nn.Conv2d(hidden, hidden, 3, padding=1, bias=False))
    layers += [nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 3, padding=1)]
    return nn.Sequential(*layers)


def direction(scores: Tensor) -> Tensor:
    """Returns the unit vector of the sum over elements k of C4 of score_k i^k: (B, 4) -> (B, 2).

    A quarter turn of the image, which shifts the scores by one, multiplies it by i.
    """
    return F.normalize(torch.stack((scores[:, 0] - scores[:, 2], scores[:, 1] - scores[:, 3]), 1), dim=1)


def rotate(images: Tensor, pose: Tensor) -> Tensor:
    """Rotates images counter-clockwise by angles, given as cosine and sine: (B, 3, S, S), (B, 2) -> (B, 3, S, S).

    Bilinear interpolation; pixels from outside of the image are those of its border.
    """
    cos, sin = pose.unbind(1)
    zero = torch.zeros_like(cos)
    # from a place in the output to its place in the input; y points down
    back = torch.stack((torch.stack((cos, -sin, zero), 1), torch.stack((sin, cos, zero), 1)), 1)
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(back, list(images.shape), align_corners=False)
        return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
