"""Flips, quarter turns and the jigsaw: permutations of pixels, so that each can be undone to the same bits.

Letters: B images, S view size in pixels, h half of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Augmentation, Switch, per_image


@dataclass(frozen=True)
class Flip(Switch):
    """Flips images horizontally; `flip` is 1 if it acts."""

    fields: ClassVar = ("flip",)

    def acted(self, images: Tensor) -> Tensor:
        return images.flip(-1)


@dataclass(frozen=True)
class VerticalFlip(Switch):
    """Flips images vertically; `vertical_flip` is 1 if it acts."""

    fields: ClassVar = ("vertical_flip",)

    def acted(self, images: Tensor) -> Tensor:
        return images.flip(-2)


@dataclass(frozen=True)
class QuarterTurn(Augmentation):
    """Rotates counter-clockwise by `quarter_turns` times 90 degrees; 0 to 3 are equally likely if it acts."""

    fields: ClassVar = ("quarter_turns",)
    uniforms: ClassVar = 2

    p: float = 1.0  # probability

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return (0.0,)

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        return (float(int(u[1] * 4)) if u[0] < self.p else 0.0,)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        turns = per_image(params[:, 0].round())
        turned = images
        for k in (1, 2, 3):  # one `where` per turn, because indexing by image would synchronise with the device
            turned = torch.where(turns == k, images.rot90(k, (-2, -1)), turned)
        return turned


_ORDERS = 24  # permutations of the quadrants; the first is the identity


@dataclass(frozen=True)
class Jigsaw(Augmentation):
    """Permutes the four quadrants of an image; `jigsaw` is the number of the permutation, 0 to 23.

    The permutations are in lexicographic order, 0 is the identity; all are equally likely if it acts. Quadrants are
    numbered row by row, and permutation p puts quadrant p[k] at place k. Source: Noroozi & Favaro (2016), on a 2 x 2
    grid as in "Understanding the Role of Equivariance in SSL" (2024).
    """

    fields: ClassVar = ("jigsaw",)
    uniforms: ClassVar = 2

    p: float = 1.0  # probability

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return (0.0,)

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        return (float(int(u[1] * _ORDERS)) if u[0] < self.p else 0.0,)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        if height % 2 or width % 2:
            raise ValueError(f"views are {height} x {width} pixels; the jigsaw needs an even number of each")
        orders = _order(params[:, 0].round().long())
        quadrants = images.reshape(count, channels, 2, height // 2, 2, width // 2)
        quadrants = quadrants.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, 4, 3, h, h)
        moved = torch.take_along_dim(quadrants, orders[:, :, None, None, None], 1)
        moved = moved.reshape(count, 2, 2, channels, height // 2, width // 2)
        return moved.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def _order(number: Tensor) -> Tensor:
    """Returns the permutations of four of these lexicographic numbers: (B,) -> (B, 4) int64."""
    # digit k counts the larger or equal places among those left; computed, because a table would have to be copied
    places = [number // 6, number // 2 % 3, number % 2, torch.zeros_like(number)]
    for k in (2, 1, 0):
        for j in range(k + 1, 4):
            places[j] = places[j] + (places[j] >= places[k])
    return torch.stack(places, 1)
