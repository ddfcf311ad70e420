"""Random resized crop, in fractions of the image (our default) or in pixels (the released code)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Framing, between

_ATTEMPTS = 10  # torchvision's RandomResizedCrop also tries ten times before it falls back to the centre


@dataclass(frozen=True)
class Crop(Framing):
    """Crops a box of random area and aspect ratio and resizes it to `size` x `size` (bilinear, antialiased).

    With `unit="fraction"`, the params are fractions of the image's height and width, so that one policy fits images of
    any size; with `unit="pixel"`, they are source pixels, as in the authors' code.
    The base view is the largest centred square, i.e. the whole image if it is square. Raises ValueError for an unknown
    unit and for a size, scale or ratio out of range.
    """

    fields: ClassVar = ("top", "left", "height", "width")
    uniforms: ClassVar = 2 * _ATTEMPTS + 2

    scale: tuple[float, float] = (0.2, 1.0)  # share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    unit: str = "fraction"  # of the params: "fraction" of the image, or "pixel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in ("fraction", "pixel"):
            raise ValueError(f"crop unit is {self.unit!r}; known: fraction, pixel")
        if self.size < 1:
            raise ValueError(f"crop size is {self.size}; it must be at least 1 pixel")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop scale is {self.scale}; it must be 0 < low <= high <= 1, shares of the image's area")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"crop ratio is {self.ratio}; it must be 0 < low <= high, width over height")

    def base(self, height: int, width: int) -> tuple[float, ...]:
        side = min(height, width)
        return self._params((height - side) // 2, (width - side) // 2, side, side, height, width)

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for k in range(_ATTEMPTS):
            area = height * width * between(*self.scale, u[2 * k])
            shape = math.exp(between(low, high, u[2 * k + 1]))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(u[-2] * (height - h + 1)), int(u[-1] * (width - w + 1))
                return self._params(top, left, h, w, height, width)
        # too elongated or too small an image for such a box: its centre, with an aspect ratio as allowed if possible
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return self._params((height - h) // 2, (width - w) // 2, h, w, height, width)

    def shrink(self, params: Tensor, height: int, width: int) -> int:
        """Returns the largest integer downscale for which the box has at least as many pixels as the view."""
        if self.unit == "pixel" or min(height, width) < 2 * self.size:  # source pixels refer to the full-size image
            return 1
        _, _, h, w = self._pixels(params, height, width)
        return max(1, min(h, w) // self.size)

    def crop(self, image: Tensor, params: Tensor) -> Tensor:
        return self.crop_within(image, params, *image.shape[-2:])

    def crop_within(self, image: Tensor, params: Tensor, height: float, width: float) -> Tensor:
        top, left, h, w = self._pixels(params, height, width)
        box = image[None, :, top : top + h, left : left + w]
        box = box.contiguous(memory_format=torch.channels_last)  # resizes several times faster, with equal results
        if h == w == self.size:
            return box[0]
        return F.interpolate(box, size=(self.size, self.size), mode="bilinear", antialias=True)[0]

    def _params(self, top: int, left: int, h: int, w: int, height: int, width: int) -> tuple[float, ...]:
        if self.unit == "pixel":
            return float(top), float(left), float(h), float(w)
        return top / height, left / width, h / height, w / width

    def _pixels(self, params: Tensor, height: float, width: float) -> tuple[int, int, int, int]:
        """Returns the box in whole pixels: exact for the params of `draw`, clamped to the image for any other values.

        If height or width is not an integer, the image's last row or column is only partly covered by content.
        """
        top, left, h, w = params.tolist()
        if self.unit == "fraction":
            top, left, h, w = top * height, left * width, h * height, w * width
        rows, columns = math.ceil(height), math.ceil(width)
        h, w = min(max(round(h), 1), rows), min(max(round(w), 1), columns)
        return min(max(round(top), 0), rows - h), min(max(round(left), 0), columns - w), h, w
