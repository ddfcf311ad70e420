"""Training views of a detector: each image at a random size, randomly mirrored, with its boxes.

Image, size and mirroring are pure functions of the seed. Letters: K boxes, H x W pixels of the file, h x w of the view.
"""

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resize

from ..data.views import StepBatches, seeded
from ..data.workers import Batches
from ..data.workers import batches as load_batches
from .datasets.base import DetectionSet


class Example(NamedTuple):
    """One training example."""

    image: Tensor  # (3, h, w) uint8
    boxes: Tensor  # (K, 4) float32: left, top, right, bottom in pixels of `image`
    labels: Tensor  # (K,) int64


def fit(image: Tensor, short: int, long: int) -> Tensor:
    """Resizes (3, H, W) uint8 to a shorter side of `short` pixels, or fewer if the longer side would exceed `long`."""
    height, width = image.shape[1:]
    scale = min(short / min(height, width), long / max(height, width))
    return resize(image, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)


def rescale(boxes: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Returns boxes (K, 4) of the image `before` (3, H, W) scaled to its resized version `after` (3, h, w)."""
    y, x = (new / old for new, old in zip(after.shape[1:], before.shape[1:], strict=True))
    return boxes * torch.tensor([x, y, x, y])


class TrainingViews(Dataset[Example]):
    """Maps (epoch, index) to the example of image `kept[index]` in that epoch.

    `sizes` holds smallest, largest and step of the shorter side, `longest` is the largest longer side, in pixels.
    """

    def __init__(self, images: DetectionSet, kept: list[int], sizes: tuple[int, int, int], longest: int, seed: int):
        self.images, self.kept, self.longest, self.seed = images, kept, longest, seed
        self.sizes = range(sizes[0], sizes[1] + 1, sizes[2])

    def __getitem__(self, key: tuple[int, ...]) -> Example:
        epoch, index = key[:2]
        generator = seeded(self.seed, epoch, index)
        size = self.sizes[int(torch.randint(len(self.sizes), (), generator=generator))]
        mirrored = bool(torch.rand((), generator=generator) < 0.5)
        whole = self.images.image(self.kept[index])
        image = fit(whole, size, self.longest)
        found = self.images.target(self.kept[index])
        boxes = rescale(found.boxes[~found.crowd], whole, image)
        if mirrored:
            image = image.flip(-1)
            left, top, right, bottom = boxes.unbind(1)
            boxes = torch.stack([image.shape[2] - right, top, image.shape[2] - left, bottom], 1)
        return Example(image, boxes, found.labels[~found.crowd])

    def describe(self, key: tuple[int, ...]) -> str:
        """Returns the place of the key's image, for messages."""
        return self.images.where[self.kept[key[1]]]


def loader(views: TrainingViews, batches: StepBatches, workers: int, pin: bool) -> Generator[list[Example], None, None]:
    """Yields the batches: each a list of examples, not a tensor, because their sizes differ."""
    return load_batches(Batches(views, list), batches, workers, pin)
