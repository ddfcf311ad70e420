"""Image transformations at a few strengths each, for the measurement of invariance.

Letters: N images, S side in pixels. A transformation maps (N, 3, S, S) uint8 images and a strength to
images of the same shape.
Source: the families of Ericsson, Gouk & Hospedales (arXiv 2111.11398) with fewer strengths; lengths are shares of the
side, so that they are comparable between image sizes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


class Transformation(NamedTuple):
    """A transformation and the strengths to try."""

    apply: Callable[[Tensor, float], Tensor]
    strengths: tuple[float, ...]
    unit: str  # of the strengths


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotates counter-clockwise about the centre, with black outside; quarter turns are exact."""
    return F.rotate(images, degrees, interpolation=InterpolationMode.BILINEAR)


def flip(images: Tensor, strength: float) -> Tensor:
    """Flips horizontally."""
    return F.horizontal_flip(images)


def translate(images: Tensor, share: float) -> Tensor:
    """Shifts right and down by this share of the side, in whole pixels, with black outside."""
    return _affine(images, max(1, round(share * images.shape[-1])), 1.0)


def scale(images: Tensor, factor: float) -> Tensor:
    """Scales about the centre, with black outside."""
    return _affine(images, 0, factor)


def blur(images: Tensor, share: float) -> Tensor:
    """Blurs with a Gaussian whose standard deviation is a share of the side."""
    side = images.shape[-1]
    sigma = share * side
    radius = min(max(1, round(3 * sigma)), (side - 1) // 2)
    return F.gaussian_blur(images, [2 * radius + 1] * 2, [sigma] * 2)


def grayscale(images: Tensor, strength: float) -> Tensor:
    """Removes colour."""
    return F.rgb_to_grayscale(images, num_output_channels=3)


def noise(images: Tensor, deviation: float) -> Tensor:
    """Adds Gaussian noise to every value, the same in every call."""
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 255 * deviation * drawn).round().clamp(0, 255).to(torch.uint8)


def _affine(images: Tensor, pixels: int, factor: float) -> Tensor:
    return F.affine(
        images, angle=0.0, translate=[pixels, pixels], scale=factor, shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )  # fmt: skip


_FACTORS = (0.25, 0.5, 0.75, 1.5, 2.0)
TRANSFORMATIONS = {
    "rotation": Transformation(rotate, (15, 30, 60, 90, 180), "degrees"),
    "horizontal flip": Transformation(flip, (1,), "on"),
    "translation": Transformation(translate, (1 / 16, 1 / 8, 3 / 16, 1 / 4), "share of the side, right and down"),
    "scale": Transformation(scale, (0.5, 0.75, 1.25, 1.5, 2.0), "factor"),
    "brightness": Transformation(F.adjust_brightness, _FACTORS, "factor"),
    "contrast": Transformation(F.adjust_contrast, _FACTORS, "factor"),
    "saturation": Transformation(F.adjust_saturation, _FACTORS, "factor"),
    "hue": Transformation(F.adjust_hue, (-0.25, -0.1, 0.1, 0.25, 0.5), "turns"),
    "blur": Transformation(blur, (1 / 64, 1 / 32, 1 / 16), "standard deviation, share of the side"),
    "grayscale": Transformation(grayscale, (1,), "on"),
    "noise": Transformation(noise, (0.02, 0.05, 0.1, 0.2), "standard deviation, share of white"),
}
