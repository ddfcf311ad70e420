"""What a detector is trained on: each image at a drawn size, mirrored or not, with its boxes.

Which image, size and side are pure functions of the seed. Letters: K boxes, H x W pixels of the file, h x w shown.
"""

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resize

from ..data.views import StepBatches, seeded
from ..data.workers import Batches
from ..data.workers import batches as loaded
from .datasets.base import DetectionSet


class Example(NamedTuple):
    """One image to learn from."""

    image: Tensor  # (3, h, w) uint8
    boxes: Tensor  # (K, 4) float32: left, top, right, bottom in pixels of `image`
    labels: Tensor  # (K,) int64


def fit(image: Tensor, short: int, long: int) -> Tensor:
    """(3, H, W) uint8 -> (3, h, w): the shorter side `short` pixels, or less where the longer would pass `long`."""
    height, width = image.shape[1:]
    scale = min(short / min(height, width), long / max(height, width))
    return resize(image, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)


def rescale(boxes: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Boxes (K, 4) of the image `before` (3, H, W) as they lie in it once it is `after` (3, h, w)."""
    y, x = (new / old for new, old in zip(after.shape[1:], before.shape[1:], strict=True))
    return boxes * torch.tensor([x, y, x, y])


class TrainingViews(Dataset[Example]):
    """(epoch, index) -> the example that image `index` of those `kept` gives in that epoch.

    `sizes` is smallest, largest and step of the shorter side's pixels, `longest` what the longer one may have at most.
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
    return loaded(Batches(views, list), batches, workers, pin)
