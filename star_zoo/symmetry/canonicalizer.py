"""Learned canonicalization: a small network that chooses the pose of an image, so that it can be turned upright.

Source: Kaba et al., "Equivariance with Learned Canonicalization Functions" (arXiv 2211.06489), the direct form with a
group-equivariant network; Panigrahi & Mondal (arXiv 2405.14089), the optimised form with any network; Mondal et al.
(2023), the prior. The bodies of these papers could not be read. Layers, widths and sizes are ours.
Letters: B images, S image size, G elements of the group, R entries of a vector.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..groups import AveragePool, FieldNorm, Group, GroupConv, LiftConv
from .choice import straight_through, turn

KINDS = ("direct", "optimised")
_SIDE = 64  # pixels; larger images are halved until they are no larger
_FIELDS, _CHANNELS, _VECTOR = 8, 32, 32  # widths of the direct network, of the optimised one, and R
_SPREAD = 1e-4  # weight of the penalty on similar vectors


class Canonicalizer(nn.Module):
    """Activations of each element of the group, (B, C, S, S) -> (B, G); turning the images by g moves them by g.

    An image is in the pose of its largest activation. In the direct form, an equivariant network computes all
    activations at once. In the optimised form, a_g = cos(r, h(g^-1 x)) with any network h and a fixed random vector r.
    Raises ValueError for an unknown kind, and for images that aren't square.
    """

    target: Tensor  # r, (R,)

    def __init__(self, group: Group, kind: str = "direct", device: Any = None, dtype: Any = None, *, channels: int = 3):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(not_found("kind of canonicalizer", kind, KINDS))
        self.group, self.kind, dd = group, kind, {"device": device, "dtype": dtype}
        self.pool = AveragePool()
        self.net = _direct(group, channels, dd) if kind == "direct" else _plain(channels, dd)
        if kind == "optimised":
            self.register_buffer("target", torch.randn(_VECTOR, **dd))

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(x)[0]

    def activate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the activations (B, G) and the penalty, a scalar that is 0 in the direct form; float32.

        The penalty is the mean absolute product of the vectors of two poses of one image.
        """
        check_square(x)
        with torch.autocast(x.device.type, enabled=False):  # rounding to bfloat16 would tie activations
            x = x.float()[:, :, None]
            while x.shape[-1] > _SIDE:
                x = self.pool(x)
            x = x[:, :, 0]
            if self.kind == "direct":
                return self.net(x).flatten(1), x.new_zeros(())
            count = self.group.order
            poses = torch.cat([self.group.act_on_images(x, self.group.inverse(g)) for g in range(count)])
            vectors = self.net(poses).unflatten(0, (count, -1)).transpose(0, 1)  # (B, G, R)
            products = (vectors @ vectors.mT).abs()
            off_diagonal = 1 - torch.eye(count, device=x.device)
            return F.cosine_similarity(vectors, self.target, dim=2), (products * off_diagonal).sum((1, 2)).mean() / (
                count * (count - 1)
            )

    def weights(self, activations: Tensor) -> Tensor:
        """Returns the choice as weights of the elements, (B, G) -> (B, G): 1 for the largest activation, else 0.

        In training, they have the gradient of the softmax.
        """
        return straight_through(activations if self.training else activations.detach())

    def to_canonical(self, x: Tensor, weights: Tensor) -> Tensor:
        """Returns the images turned back by the chosen elements, exactly: (B, C, S, S), (B, G) -> (B, C, S, S)."""
        return turn(x, weights, self.group, back=True)

    def from_canonical(self, maps: Tensor, weights: Tensor) -> Tensor:
        """Undoes `to_canonical` on maps of canonical images: (B, C, H, H), (B, G) -> (B, C, H, H)."""
        return turn(maps, weights, self.group)

    def extra_repr(self) -> str:
        """Returns the settings, for the printed module."""
        return f"{self.group.name}, {self.kind}"


def prior(activations: Tensor, penalty: Tensor) -> Tensor:
    """Returns the loss of images that are upright: cross entropy to the identity, plus the weighted penalty."""
    return F.cross_entropy(activations, activations.new_zeros(len(activations), dtype=torch.int64)) + _SPREAD * penalty


def check_square(x: Tensor) -> None:
    """Raises ValueError for images that aren't square."""
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"images are {x.shape[-2]} x {x.shape[-1]}; a canonicalizer takes square ones: resize or crop")


def _direct(group: Group, channels: int, dd: dict[str, Any]) -> nn.Sequential:
    """Returns an equivariant network: (B, C, S, S) -> (B, 1, G, 1, 1)."""
    lift = LiftConv(group, channels, _FIELDS, 5, **dd)
    layers: list[nn.Module] = [lift, FieldNorm(_FIELDS, **dd), nn.ReLU(inplace=True)]
    for _ in range(2):
        layers += [AveragePool(), GroupConv(group, _FIELDS, _FIELDS, **dd), FieldNorm(_FIELDS, **dd)]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, _Mean(), GroupConv(group, _FIELDS, 1, 1, **dd))


class _Mean(nn.Module):
    """The mean over positions: (B, C, G, H, W) -> (B, C, G, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((3, 4), keepdim=True)


def _plain(channels: int, dd: dict[str, Any]) -> nn.Sequential:
    """Returns a network without symmetry: (B, C, S, S) -> (B, R)."""
    layers: list[nn.Module] = []
    for width, size in ((channels, 5), (_CHANNELS, 3), (_CHANNELS, 3)):
        layers += [nn.Conv2d(width, _CHANNELS, size, padding=size // 2, bias=False, **dd)]
        layers += [nn.BatchNorm2d(_CHANNELS, **dd), nn.ReLU(inplace=True), nn.AvgPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_CHANNELS, _VECTOR, **dd))
