"""Spirographs: curves drawn from ten numbers, four of them what the picture is and six how it is seen.

A procedural stand-in for images (Foster et al., ICLR 2021): the object is (m, b, sigma, rfore) and comes from the data
set as a tensor of shape (4, 1, 1); a view's parameters are the other six, so that rendering is the augmentation.
"""

import functools
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


@functools.cache
def _grid(size: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(-_EXTENT, _EXTENT, size)[:, None], torch.linspace(0, 2 * math.pi, _POINTS)


def render(thing: Tensor, seen: Tensor, size: int) -> Tensor:
    """The picture of an object (4,) seen under (6,): (3, size, size) float in [0, 1].

    A hypotrochoid with R = m - h: x = R cos t + h cos(R t / b), y = R sin t - h sin(R t / b); every pixel sums
    exp(-distance^2 / sigma) over its points, which separates into rows times columns.
    """
    m, b, sigma, rfore = thing.unbind()
    h, rback, gfore, gback, bfore, bback = seen.unbind()
    grid, t = _grid(size)
    radius, turn = m - h, (m - h) * t / b
    x = radius * t.cos() + h * turn.cos()
    y = radius * t.sin() - h * turn.sin()
    curve = torch.exp(-(grid - x).square() / sigma) @ torch.exp(-(grid - y).square() / sigma).T / _POINTS
    curve = curve / (curve.max() + 1e-8)
    fore, back = torch.stack((rfore, gfore, bfore)), torch.stack((rback, gback, bback))
    return back[:, None, None] + (fore - back)[:, None, None] * curve


@dataclass(frozen=True)
class Spirograph(Framing):
    """Draws the object with six parameters of its own: the ring h and the colours; base: the middle of each range."""

    fields: ClassVar = tuple(SEEN)
    uniforms: ClassVar = len(SEEN)

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return tuple(between(low, high, 0.5) for low, high in SEEN.values())

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        return tuple(between(low, high, share) for (low, high), share in zip(SEEN.values(), u, strict=True))

    def crop(self, image: Tensor, params: Tensor) -> Tensor:
        return (render(image.flatten(), params, self.size) * 255).round().to(torch.uint8)
