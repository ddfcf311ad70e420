"""A batch of views, as objectives and encoders receive it.

Letters: B images, V views of an image, S_v size of view v in pixels, P augmentation parameters, K target numbers.
"""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """The views of B images, with the data set's information about each image."""

    views: list[Tensor]  # V of (B, 3, S_v, S_v) uint8, cropped, before the other augmentations
    params: list[Tensor]  # V of (B, P) float32, raw units, columns named by `Policy.fields`
    index: Tensor  # type: ignore[assignment] # (B,) int64, the image's position in its data set
    size: Tensor  # (B, 2) int64, height and width of the source image in pixels
    target: Tensor | None = None  # (B,) int64 classes or (B, K) float32 numbers, if the data set has them
