"""Horizontal flip and quarter turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Augmentation, per_image


@dataclass(frozen=True)
class Flip(Augmentation):
    """Flips images horizontally; `flip` is 1 if it acts."""

    fields: ClassVar = ("flip",)
    uniforms: ClassVar = 1

    p: float = 0.5

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return (0.0,)

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        return (float(u[0] < self.p),)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return torch.where(per_image(params[:, 0] > 0.5), images.flip(-1), images)


@dataclass(frozen=True)
class QuarterTurn(Augmentation):
    """Rotates counter-clockwise by `quarter_turns` times 90 degrees; 0 to 3 are equally likely if it acts."""

    fields: ClassVar = ("quarter_turns",)
    uniforms: ClassVar = 2

    p: float = 1.0

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
