"""Spirographs: curves rendered from ten numbers, four for the object and six for the view.

A procedural substitute for images (Foster et al., ICLR 2021). The object is (m, b, sigma, rfore) and comes from the
data set as a tensor of shape (4, 1, 1); the params of a view are the other six, so that rendering is the augmentation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Framing, between

OBJECT = {"m": (2.0, 5.0), "b": (0.1, 1.1), "sigma": (0.25, 1.0), "rfore": (0.4, 1.0)}
SEEN = {
    "h": (0.5, 2.5),
    "rback": (0.0, 0.6),
    "gfore": (0.4, 1.0),
    "gback": (0.0, 0.6),
    "bfore": (0.4, 1.0),
    "bback": (0.0, 0.6),
}
_POINTS = 40  # along one revolution, both ends included
_EXTENT = 6.0  # the picture spans [-6, 6]; no curve leaves [-5, 5]


def render(thing: Tensor, seen: Tensor, size: int) -> Tensor:
    """Renders objects under view params: (..., 4), (..., 6) -> (..., 3, size, size) float in [0, 1].

    The result is differentiable in both. The curve is a hypotrochoid with R = m - h: x = R cos t + h cos(R t / b),
    y = R sin t - h sin(R t / b). Every pixel sums exp(-distance^2 / sigma) over the points of the curve, which
    separates into rows times columns.
    """
    m, b, sigma, rfore = thing[..., None].unbind(-2)
    h, rback, gfore, gback, bfore, bback = seen[..., None].unbind(-2)
    grid = torch.linspace(-_EXTENT, _EXTENT, size, device=thing.device)[:, None]
    t = torch.linspace(0, 2 * math.pi, _POINTS, device=thing.device)
    radius, turn = m - h, (m - h) * t / b
    x = radius * t.cos() + h * turn.cos()
    y = radius * t.sin() - h * turn.sin()
    rows, columns = (torch.exp(-(grid - p[..., None, :]).square() / sigma[..., None]) for p in (x, y))
    curve = rows @ columns.mT / _POINTS
    curve = curve / (curve.amax((-2, -1), keepdim=True) + 1e-8)
    fore, back = torch.stack((rfore, gfore, bfore), -2), torch.stack((rback, gback, bback), -2)
    return back[..., None] + (fore - back)[..., None] * curve[..., None, :, :]


@dataclass(frozen=True)
class Spirograph(Framing):
    """Renders the object under six params, the ring h and the colours; the base view has the middle of each range.

    `apply` renders on the device. It rounds the values to 8 bits; the gradient is that of the unrounded image.
    """

    fields: ClassVar = tuple(SEEN)
    uniforms: ClassVar = len(SEEN)
    differentiable: ClassVar = True

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return tuple(between(low, high, 0.5) for low, high in SEEN.values())

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        return tuple(between(low, high, share) for (low, high), share in zip(SEEN.values(), u, strict=True))

    def without_color(self) -> None:
        return None

    def crop(self, image: Tensor, params: Tensor) -> Tensor:
        return image  # the object; there is no image to crop before `apply` renders it

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Renders a batch of objects: (B, 4, 1, 1), (B, 6) -> (B, 3, S, S) float in [0, 1]."""
        exact = render(images.flatten(1), params, self.size)
        return (exact * 255).round().detach() / 255 + (exact - exact.detach())
