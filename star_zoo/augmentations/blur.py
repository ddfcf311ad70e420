"""Gaussian blur with one sigma per image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Augmentation, between


def gaussian_kernels(sigma: Tensor, size: int) -> Tensor:
    """Returns one normalised 1-D kernel per image: (B,) in pixels -> (B, size); the identity kernel for sigma 0."""
    distance = torch.arange(size, device=sigma.device, dtype=sigma.dtype) - size // 2
    weights = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]).square())
    return weights / weights.sum(1, keepdim=True)


@dataclass(frozen=True)
class Blur(Augmentation):
    """Blurs with standard deviation `blur_sigma` in pixels, 0 if it doesn't act; borders are reflected.

    `blur_sigma` is uniform in the range `sigma`, or one of `levels` if there are any. Raises ValueError for settings
    out of range.
    """

    fields: ClassVar = ("blur_sigma",)
    uniforms: ClassVar = 2
    differentiable: ClassVar = True

    kernel: int = 9  # pixels, odd
    sigma: tuple[float, float] = (0.1, 2.0)  # range of the standard deviation, in pixels
    p: float = 0.5  # probability
    levels: tuple[float, ...] = ()  # standard deviations, all equally likely

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"blur kernel is {self.kernel} pixels; it must be positive and odd")
        if not 0 <= self.sigma[0] <= self.sigma[1] < math.inf:
            raise ValueError(f"blur sigma is {self.sigma}; it must be 0 <= low <= high, in pixels")
        if not all(0 <= level < math.inf for level in self.levels):
            raise ValueError(f"blur levels are {self.levels}; each must be at least 0 pixels")

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return (0.0,)

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        if u[0] >= self.p:
            return (0.0,)
        return (self.levels[int(u[1] * len(self.levels))] if self.levels else between(*self.sigma, u[1]),)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        b, c, height, width = images.shape
        pad = self.kernel // 2
        if pad >= min(height, width):
            raise ValueError(
                f"blur kernel is {self.kernel} pixels, but views are {height} x {width}; "
                f"choose a smaller kernel or views larger than {pad} pixels"
            )
        kernels = gaussian_kernels(params[:, 0], self.kernel).repeat_interleave(c, 0)  # every channel is a group
        stacked = F.pad(images, (pad, pad, pad, pad), mode="reflect").view(1, b * c, height + 2 * pad, width + 2 * pad)
        stacked = F.conv2d(stacked, kernels[:, None, :, None], groups=b * c)
        return F.conv2d(stacked, kernels[:, None, None, :], groups=b * c).view(b, c, height, width)
