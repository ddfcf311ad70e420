"""What an augmentation is: named parameters that are drawn first and applied second.

Letters: B images, S view size in pixels, P parameters of one view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """One operation. Its parameters are a pure function of uniform numbers, its effect one of images and parameters.

    `p` is the probability of acting; an operation that doesn't act draws its `base` values, which change nothing.
    """

    fields: ClassVar[tuple[str, ...]]  # names of its columns of params
    uniforms: ClassVar[int]  # how many uniform numbers in [0, 1) one draw takes

    def base(self, height: int, width: int) -> tuple[float, ...]:
        """The parameters of the un-augmented view of an image of this size."""
        raise NotImplementedError

    def draw(self, height: int, width: int, u: Sequence[float]) -> tuple[float, ...]:
        """The parameters that the uniform numbers `u` select, for an image of this size."""
        raise NotImplementedError

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """The whole batch at once: (B, 3, S, S) float in [0, 1], (B, len(fields)) -> (B, 3, S, S)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Framing(Augmentation):
    """The first operation of a policy: it makes views of a fixed size out of a data set's images."""

    size: int  # S, pixels

    def crop(self, image: Tensor, params: Tensor) -> Tensor:
        """One view of one image, in the worker: any size, (len(fields),) -> (3, S, S) uint8."""
        raise NotImplementedError

    def shrink(self, params: Tensor, height: int, width: int) -> int:
        """How many times smaller an image of this size may be without a view that lacks detail: 1, unless it is known.

        What says more than 1 has a `crop_within` for the smaller image.
        """
        return 1

    def crop_within(self, image: Tensor, params: Tensor, height: float, width: float) -> Tensor:
        """`crop` where the image shows height x width of its own pixels, a little less than it has if it was shrunk."""
        return self.crop(image, params)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Turns the batch of `crop`'s results, (B, 3, S, S) uint8, into images in [0, 1]: (B, 3, S, S) float."""
        return images.contiguous().float() / 255  # views come channels last; the operations and their sums go by plane


def per_image(column: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to multiply images with."""
    return column[:, None, None, None]


def between(low: float, high: float, u: float) -> float:
    """The number a share `u` of the way from `low` to `high`."""
    return low + (high - low) * u
