"""Image transformations at a few strengths each, for the measurement of invariance.

Letters: N images, C channels, S side in pixels. A transformation maps (N, C, S, S) uint8 images and a strength to
images of the same shape.
Source: the families of Ericsson, Gouk & Hospedales (arXiv 2111.11398) with fewer strengths; lengths are shares of the
side, so that they are comparable between image sizes. Ours are the crop, the flip, grayscale and noise, the smaller
angles of the shear, and the groups: the augmentations of the policy `ventral` are spatial, those of `dorsal` change
colour or detail.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


class Transformation(NamedTuple):
    """A transformation, the strengths to try, and the group whose mean it is part of."""

    apply: Callable[[Tensor, float], Tensor]
    strengths: tuple[float, ...]
    unit: str  # of the strengths
    group: str  # one of GROUPS


def crop(images: Tensor, area: float) -> Tensor:
    """Crops a square of this share of the area and resizes it to S; its place is random, the same in every call."""
    side = images.shape[-1]
    inner = min(side - 1, max(1, round(side * area**0.5)))
    places = torch.rand(len(images), 2, generator=torch.Generator().manual_seed(0))
    corners = (places * (side - inner + 1)).long().tolist()
    found = [
        F.resized_crop(image, top, left, inner, inner, [side, side], antialias=True)
        for image, (top, left) in zip(images, corners, strict=True)
    ]
    return torch.stack(found)


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotates counter-clockwise about the centre, with black outside; quarter turns are exact."""
    return F.rotate(images, degrees, interpolation=InterpolationMode.BILINEAR)


def flip(images: Tensor, strength: float) -> Tensor:
    """Flips horizontally."""
    return F.horizontal_flip(images)


def translate(images: Tensor, share: float) -> Tensor:
    """Shifts right and down by this share of the side, in whole pixels, with black outside."""
    return _affine(images, pixels=max(1, round(share * images.shape[-1])))


def scale(images: Tensor, factor: float) -> Tensor:
    """Scales about the centre, with black outside."""
    return _affine(images, factor=factor)


def shear(images: Tensor, degrees: float) -> Tensor:
    """Shears horizontally about the centre, with black outside."""
    return _affine(images, degrees=degrees)


def elastic(images: Tensor, deviation: float) -> Tensor:
    """Moves pixels along a smooth random field, the same for all images and in every call."""
    side = images.shape[-1]
    drawn = torch.rand(1, 2, side, side, generator=torch.Generator().manual_seed(0)) - 0.5
    radius = max(1, side // 8)
    smooth = F.gaussian_blur(drawn, [2 * radius + 1] * 2, [side / 16] * 2).permute(0, 2, 3, 1)
    field = 2 * deviation * smooth / smooth.std()  # the side has length 2
    return F.elastic(images, field, interpolation=InterpolationMode.BILINEAR)


def blur(images: Tensor, share: float) -> Tensor:
    """Blurs with a Gaussian whose standard deviation is a share of the side."""
    side = images.shape[-1]
    sigma = share * side
    radius = min(max(1, round(3 * sigma)), (side - 1) // 2)
    return F.gaussian_blur(images, [2 * radius + 1] * 2, [sigma] * 2)


def grayscale(images: Tensor, strength: float) -> Tensor:
    """Removes colour."""
    return F.rgb_to_grayscale(images, num_output_channels=3)


def posterize(images: Tensor, bits: float) -> Tensor:
    """Keeps the highest bits of every value."""
    return F.posterize(images, int(bits))


def noise(images: Tensor, deviation: float) -> Tensor:
    """Adds Gaussian noise to every value, the same in every call."""
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 255 * deviation * drawn).round().clamp(0, 255).to(torch.uint8)


def _affine(images: Tensor, pixels: int = 0, factor: float = 1.0, degrees: float = 0.0) -> Tensor:
    return F.affine(
        images, angle=0.0, translate=[pixels, pixels], scale=factor, shear=[degrees, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )  # fmt: skip


def of_channels(channels: int) -> dict[str, Transformation]:
    """Returns the transformations that images of so many channels have."""
    lacking = {1: _OF_COLORS, 3: ()}.get(channels, (*_OF_COLORS, *_OF_PHOTOS))
    return {name: found for name, found in TRANSFORMATIONS.items() if name not in lacking}


_OF_COLORS = ("saturation", "hue", "grayscale")
_OF_PHOTOS = ("brightness", "contrast", "sharpness")  # which torchvision defines for one and three channels
GROUPS = ("spatial", "colour", "detail")
_FACTORS = (0.25, 0.5, 0.75, 1.5, 2.0)
TRANSFORMATIONS = {
    "crop": Transformation(crop, (0.75, 0.5, 0.35, 0.2), "share of the area", "spatial"),
    "rotation": Transformation(rotate, (15, 30, 60, 90, 180), "degrees", "spatial"),
    "horizontal flip": Transformation(flip, (1,), "on", "spatial"),
    "translation": Transformation(translate, (1 / 16, 1 / 8, 3 / 16, 1 / 4), "share of the side", "spatial"),
    "scale": Transformation(scale, (0.5, 0.75, 1.25, 1.5, 2.0), "factor", "spatial"),
    "shear": Transformation(shear, (10, 20, 40), "degrees", "spatial"),
    "elastic": Transformation(elastic, (1 / 64, 1 / 32, 1 / 16), "standard deviation, share of the side", "spatial"),
    "brightness": Transformation(F.adjust_brightness, _FACTORS, "factor", "colour"),
    "contrast": Transformation(F.adjust_contrast, _FACTORS, "factor", "colour"),
    "saturation": Transformation(F.adjust_saturation, _FACTORS, "factor", "colour"),
    "hue": Transformation(F.adjust_hue, (-0.25, -0.1, 0.1, 0.25, 0.5), "turns", "colour"),
    "grayscale": Transformation(grayscale, (1,), "on", "colour"),
    "posterize": Transformation(posterize, (4, 3, 2, 1), "bits", "colour"),
    "blur": Transformation(blur, (1 / 64, 1 / 32, 1 / 16), "standard deviation, share of the side", "detail"),
    "sharpness": Transformation(F.adjust_sharpness, (2, 5, 15), "factor", "detail"),
    "noise": Transformation(noise, (0.02, 0.05, 0.1, 0.2), "standard deviation, share of white", "detail"),
}  # fmt: skip
