"""Colour jitter in two styles, grayscale, solarize and inversion.

Images are (B, C, S, S) float in [0, 1]; hue, saturation and grayscale exist for three channels. Sources:
`torchvision` follows torchvision's functional colour operations on float tensors; `released` follows kornia 0.4.1,
which the authors pin: brightness is added, contrast multiplies without a mean, saturation and hue act in HSV.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .base import Augmentation, Switch, between, constants, per_image

_LUMA = {"released": (0.299, 0.587, 0.114), "torchvision": (0.2989, 0.587, 0.114)}


def luma(images: Tensor, style: str) -> Tensor:
    """Returns the grey value of each pixel, the mean unless there are three channels: (B, C, S, S) -> (B, 1, S, S)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    r, g, b = _LUMA[style]
    return r * images[:, 0:1] + g * images[:, 1:2] + b * images[:, 2:3]


def rgb_to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns hue (in turns), saturation and value, each (B, S, S) in [0, 1]."""
    r, g, b = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    span = torch.where(chroma == 0, 1.0, chroma)
    sector = torch.where(
        value == r, (g - b) / span, torch.where(value == g, 2 + (b - r) / span, 4 + (r - g) / span)
    )  # the side of the colour hexagon, 0 to 5, plus the position along it
    saturation = chroma / torch.where(value == 0, 1.0, value)
    return (sector / 6) % 1.0, saturation, value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Returns RGB images, the inverse of `rgb_to_hsv`: three of (B, S, S) -> (B, 3, S, S); hue is modulo one turn."""
    sixth = 6 * (hue - hue.floor())  # 0 to 6, red at 0, green at 2, blue at 4
    ramps = torch.stack(((sixth - 3).abs() - 1, 2 - (sixth - 2).abs(), 2 - (sixth - 4).abs()), 1).clamp(0, 1)
    return (value * (1 - saturation))[:, None] + (value * saturation)[:, None] * ramps


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def jitter_torchvision(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Applies torchvision's adjust_brightness, _contrast, _saturation and _hue, in this order; factors (B,)."""
    images = (per_image(brightness) * images).clamp(0, 1)
    images = _blend(images, luma(images, "torchvision").mean((1, 2, 3), keepdim=True), per_image(contrast))
    if images.shape[1] != 3:
        return images
    images = _blend(images, luma(images, "torchvision"), per_image(saturation))
    h, s, v = rgb_to_hsv(images)
    return hsv_to_rgb(h + hue[:, None, None], s, v)


def jitter_released(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Applies kornia 0.4.1's brightness, contrast, saturation and hue, in this order; factors (B,)."""
    images = (images + per_image(brightness - 1)).clamp(0, 1)
    images = (images * per_image(contrast)).clamp(0, 1)
    if images.shape[1] != 3:
        return images
    h, s, v = rgb_to_hsv(images)  # one conversion for both; kornia converts to RGB and back between the two
    return hsv_to_rgb(h + hue[:, None, None], (s * saturation[:, None, None]).clamp(0, 1), v)


_STYLES = {"released": jitter_released, "torchvision": jitter_torchvision}


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation (factors, 1 is the identity) and hue (turns, 0 is the identity).

    The order is fixed, so that equal parameters produce equal images; the released code shuffles it once per batch and
    does not encode it for its heads. Factors are uniform in [1 - x, 1 + x], not below 0; the hue shift is uniform in
    [-hue, hue]. Images of another number of channels than three change in brightness and contrast alone. Raises
    ValueError for an unknown style and for settings out of range.
    """

    fields: ClassVar = ("brightness", "contrast", "saturation", "hue")
    uniforms: ClassVar = 5
    differentiable: ClassVar = True

    brightness: float = 0.4  # largest change of the factor
    contrast: float = 0.4  # largest change of the factor
    saturation: float = 0.4  # largest change of the factor
    hue: float = 0.1  # largest shift, in turns of the colour circle
    p: float = 0.8  # probability
    style: str = "torchvision"  # whose formulas: "torchvision", or "released" as in the authors' code

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style not in _STYLES:
            raise ValueError(f"colour jitter style is {self.style!r}; known: {', '.join(_STYLES)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"colour jitter hue is {self.hue}; it must be between 0 and 0.5 turns")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"colour jitter {name} is {getattr(self, name)}; it must be at least 0")

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return 1.0, 1.0, 1.0, 0.0

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        if u[0] >= self.p:
            return self.base(height, width)
        spans = (self.brightness, self.contrast, self.saturation)
        factors = (between(max(0.0, 1 - x), 1 + x, share) for x, share in zip(spans, u[1:4], strict=True))
        return *factors, between(-self.hue, self.hue, u[4])

    def without_color(self) -> "ColorJitter":
        return replace(self, saturation=0.0, hue=0.0)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        jittered = _STYLES[self.style](images, *params.unbind(1))
        untouched = (params == constants(params, self.base(0, 0))).all(1)
        if params.requires_grad:  # an untouched image keeps its values, with the gradient of jittering it
            images = images.detach() + (jittered - jittered.detach())
        return torch.where(per_image(untouched), images, jittered)  # the conversion to HSV and back would round


@dataclass(frozen=True)
class Grayscale(Switch):
    """Converts images to grey; `grayscale` is 1 if it acts. Raises ValueError for an unknown style."""

    fields: ClassVar = ("grayscale",)

    p: float = 0.2  # probability
    style: str = "torchvision"  # whose formulas: "torchvision", or "released" as in the authors' code

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style not in _LUMA:
            raise ValueError(f"grayscale style is {self.style!r}; known: {', '.join(_LUMA)}")

    def without_color(self) -> None:
        return None

    def acted(self, images: Tensor) -> Tensor:
        return luma(images, self.style)


@dataclass(frozen=True)
class Solarize(Switch):
    """Inverts values of at least `threshold`, from 0 to 1; `solarize` is 1 if it acts."""

    fields: ClassVar = ("solarize",)

    p: float = 0.2  # probability
    threshold: float = 0.5  # of values from 0 to 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"solarize threshold is {self.threshold}; it must be from 0 to 1, as the values of images")

    def acted(self, images: Tensor) -> Tensor:
        return torch.where(images >= self.threshold, 1 - images, images)


@dataclass(frozen=True)
class Invert(Switch):
    """Inverts all values; `invert` is 1 if it acts. Values of 8 bits come back to the same bits when inverted twice."""

    fields: ClassVar = ("invert",)

    p: float = 0.2  # probability

    def acted(self, images: Tensor) -> Tensor:
        return (255 - 255 * images) / 255  # 1 - images would round off the last bits of small values
