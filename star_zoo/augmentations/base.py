"""The interface of an augmentation: named parameters that are drawn first and applied second.

Letters: B images, C channels, S view size in pixels, P parameters of one view.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """One operation: its parameters are a pure function of uniform numbers, its result of images and parameters.

    `p` is the probability of acting; an operation that doesn't act draws its `base` values, which change nothing.
    Raises ValueError for a `p` outside [0, 1].
    """

    fields: ClassVar[tuple[str, ...]]  # the names of its columns of params
    uniforms: ClassVar[int]  # the number of uniform numbers in [0, 1) that one draw uses
    differentiable: ClassVar[bool] = False  # whether `apply` is differentiable in the params

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, tuples(getattr(self, field.name)))  # an augmentation is hashable
        p = getattr(self, "p", 1.0)  # not every operation has one
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}'s p is {p}; it must be a probability, from 0 to 1")

    def base(self, height: int, width: int) -> tuple[float, ...]:
        """Returns the parameters of the un-augmented view of an image of this size in pixels."""
        raise NotImplementedError

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        """Returns the parameters that the uniform numbers `u` select for an image of this size in pixels."""
        raise NotImplementedError

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Applies the operation to a batch: (B, C, S, S) float in [0, 1], (B, len(fields)) -> (B, C, S, S)."""
        raise NotImplementedError

    def without_color(self) -> "Augmentation | None":
        """Returns the part of the operation that acts on images of any number of channels; None if there is none."""
        return self


@dataclass(frozen=True)
class Switch(Augmentation):
    """An operation whose only param is 1 if it acts and 0 otherwise. A subclass implements `acted`."""

    uniforms: ClassVar = 1

    p: float = 0.5  # probability

    def base(self, height: int, width: int) -> tuple[float, ...]:
        return (0.0,)

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        return (float(u[0] < self.p),)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return torch.where(per_image(params[:, 0] > 0.5), self.acted(images), images)

    def acted(self, images: Tensor) -> Tensor:
        """Returns the images, all of them changed: (B, C, S, S) float in [0, 1] -> the same shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class Framing(Augmentation):
    """The first operation of a policy: it makes views of a fixed size from the images of a data set."""

    size: int  # S, pixels

    def crop(self, image: Tensor, params: Tensor) -> Tensor:
        """Returns one view of one image, in a worker: (C, height, width), (len(fields),) -> (C, S, S).

        Pixels are uint8, or float32 from 0 to 255 for images of more than 8 bits, before and after.
        """
        raise NotImplementedError

    def shrink(self, params: Tensor, height: int, width: int) -> int:
        """Returns the largest integer downscale that loses no detail in the view; 1 by default.

        `height` and `width` are those of the image, in pixels. A subclass that returns more than 1 must implement
        `crop_within` for the downscaled image.
        """
        return 1

    def crop_within(self, image: Tensor, params: Tensor, height: float, width: float) -> Tensor:
        """Returns `crop` of an image whose content covers only height x width of its pixels.

        A downscaled image has rounded sides, so its content may be slightly smaller than the image.
        """
        return self.crop(image, params)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Converts a batch of `crop`'s results to images in [0, 1]: (B, C, S, S) -> (B, C, S, S) float."""
        return images.contiguous().float() / 255  # views arrive channels last; the operations work plane by plane


def per_image(column: Tensor) -> Tensor:
    """Returns a column of params in a shape that broadcasts over images: (B,) -> (B, 1, 1, 1)."""
    return column[:, None, None, None]


def tuples(value: Any) -> Any:
    """Converts lists to tuples, recursively; other values remain as they are."""
    return tuple(tuples(v) for v in value) if isinstance(value, list | tuple) else value


def constants(like: Tensor, values: Sequence[float]) -> Tensor:
    """Returns numbers as a tensor (N,) of the device and dtype of `like`, without a copy that the host waits for."""
    return torch.stack([like.new_full((), value) for value in values])


def between(low: float, high: float, u: float) -> float:
    """Returns the linear interpolation between `low` (u = 0) and `high` (u = 1)."""
    return low + (high - low) * u
