"""`DetectionSet`: images with boxes, independent of their layout on disk.

Letters: N images, M boxes of all images, K boxes of one, C classes, H x W pixels.
"""

import functools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.contents import of_files
from ...data.decode import UndecodableImage, decode_stored
from ...data.sources.base import DataError
from ...data.sources.raw import digest
from ...messages import Note

_THINNEST = 1e-3  # pixels; the smallest side of a box, because the logarithm of its side is regressed


class BoxWarning(Note):
    """Warns of boxes that are left out because they are empty or outside their image, or that may be misplaced."""


class Box(NamedTuple):
    """One object: corners in pixels from the image's top left corner, right and bottom exclusive."""

    label: int
    left: float
    top: float
    right: float
    bottom: float
    difficult: bool = False  # VOC's: used in training, ignored in evaluation
    crowd: bool = False  # COCO's: many objects in one box, not used in training; evaluation ignores detections inside


class Picture(NamedTuple):
    """One image as read; `content` is its name, or a checksum of its bytes if they are in memory."""

    encoded: Path | bytes
    where: str  # for messages
    content: str
    height: int
    width: int
    boxes: Sequence[Box]
    orientation: int = 1  # EXIF's; 2 to 8 if the boxes are on the upright image and the stored pixels aren't upright


class Target(NamedTuple):
    """The boxes of one image, or of several images concatenated."""

    boxes: Tensor  # (K, 4) float32: left, top, right, bottom in pixels
    labels: Tensor  # (K,) int64, 0 to C - 1
    difficult: Tensor  # (K,) bool
    crowd: Tensor  # (K,) bool


@dataclass(frozen=True)
class DetectionSet:
    """One split of one data set; images are decoded on access."""

    name: str
    classes: tuple[str, ...]
    encoded: tuple[Path | bytes, ...]
    where: tuple[str, ...]
    contents: tuple[str, ...]
    sizes: Tensor  # (N, 2) int64: height, width
    all_boxes: Target  # the boxes of all images, concatenated, (M, ...)
    ends: Tensor  # (N,) int64: where each image's boxes end in `all_boxes`
    orientations: Tensor  # (N,) int64: see `Picture`

    def __len__(self) -> int:
        return len(self.encoded)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hex hash of the images, boxes and classes, independent of their folder."""
        tensors = [t.numpy().tobytes() for t in (self.sizes, self.ends, *self.all_boxes)]
        files = of_files([image for image in self.encoded if isinstance(image, Path)])
        return digest(["detection", self.classes, self.contents, files, *tensors])

    def target(self, index: int) -> Target:
        """Returns the boxes of image `index`."""
        start = int(self.ends[index - 1]) if index else 0
        return Target(*(part[start : int(self.ends[index])] for part in self.all_boxes))

    def image(self, index: int) -> Tensor:
        """Returns image `index`, uint8 (3, H, W). Raises DataError if it doesn't decode or has the wrong size."""
        try:
            image = decode_stored(self.encoded[index], int(self.orientations[index]))
        except UndecodableImage as error:
            raise DataError(f"{self.where[index]} doesn't decode ({error}); repair it or take it out.") from error
        height, width = self.sizes[index].tolist()
        if image.shape[1:] != (height, width):
            found = f"{image.shape[2]} x {image.shape[1]} pixels, but {width} x {height} in its annotation"
            raise DataError(f"{self.where[index]} has {found}; its boxes would be wrong: repair the annotation.")
        return image

    @property
    def trainable(self) -> list[int]:
        """Indices of the images with boxes to train on; like detectron2, training leaves out the others."""
        return [index for index in range(len(self)) if not self.target(index).crowd.all()]


def make(name: str, classes: Sequence[str], pictures: Iterable[Picture]) -> DetectionSet:
    """Returns a set of pictures; boxes are clipped to the image, empty ones are left out with a `BoxWarning`."""
    pictures = list(pictures)
    if not pictures:
        raise DataError(f"{name} has no images in this split.")
    kept, ends, bad = [], [], []
    for picture in pictures:
        for box in picture.boxes:
            if not 0 <= box.label < len(classes):
                raise DataError(f"{picture.where} has a box of class {box.label}; there are {len(classes)} classes.")
            left, right = (min(max(x, 0.0), picture.width) for x in (box.left, box.right))
            top, bottom = (min(max(y, 0.0), picture.height) for y in (box.top, box.bottom))
            # comparisons with NaN are false, so boxes with NaN are left out too
            if right - left >= _THINNEST and bottom - top >= _THINNEST:
                kept.append(box._replace(left=left, top=top, right=right, bottom=bottom))
            else:
                bad.append(f"{picture.where}: {tuple(box[1:5])}")
        ends.append(len(kept))
    if bad:
        rest = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        found = f"boxes of {name} are empty or outside their image: {'; '.join(bad[:3])}{rest}"
        warnings.warn(BoxWarning(f"{len(bad)} of the {len(bad) + len(kept)} {found}. They are not used."), stacklevel=3)
    return DetectionSet(
        name=name,
        classes=tuple(classes),
        encoded=tuple(p.encoded for p in pictures),
        where=tuple(p.where for p in pictures),
        contents=tuple(p.content for p in pictures),
        sizes=torch.tensor([(p.height, p.width) for p in pictures]),
        all_boxes=Target(
            torch.tensor([box[1:5] for box in kept], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([box.label for box in kept], dtype=torch.int64),
            torch.tensor([box.difficult for box in kept], dtype=torch.bool),
            torch.tensor([box.crowd for box in kept], dtype=torch.bool),
        ),
        ends=torch.tensor(ends),
        orientations=torch.tensor([p.orientation for p in pictures]),
    )


def join(sets: Sequence[DetectionSet]) -> DetectionSet:
    """Returns the concatenation of sets, with the classes of all."""
    if len(sets) == 1:
        return sets[0]
    sets = align(sets)
    shifts = torch.tensor([0, *(len(s.all_boxes.labels) for s in sets[:-1])]).cumsum(0)
    return DetectionSet(
        name="+".join(s.name for s in sets),
        classes=sets[0].classes,
        encoded=tuple(e for s in sets for e in s.encoded),
        where=tuple(w for s in sets for w in s.where),
        contents=tuple(c for s in sets for c in s.contents),
        sizes=torch.cat([s.sizes for s in sets]),
        all_boxes=Target(*(torch.cat(parts) for parts in zip(*(s.all_boxes for s in sets), strict=True))),
        ends=torch.cat([s.ends + shift for s, shift in zip(sets, shifts, strict=True)]),
        orientations=torch.cat([s.orientations for s in sets]),
    )


def align(sets: Sequence[DetectionSet]) -> list[DetectionSet]:
    """Returns the sets with common classes and class numbers: those of the first set, then those that others add."""
    names = tuple(dict.fromkeys(name for s in sets for name in s.classes))
    place = {name: number for number, name in enumerate(names)}
    aligned = []
    for s in sets:
        numbers = torch.tensor([place[name] for name in s.classes], dtype=torch.int64)
        boxes = s.all_boxes._replace(labels=numbers[s.all_boxes.labels])
        aligned.append(replace(s, classes=names, all_boxes=boxes))
    return aligned
