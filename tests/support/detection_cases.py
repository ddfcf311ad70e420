"""Small data sets with boxes, in each layout; and detections with a known score.

A scene is a noisy image with one or two flat rectangles, red ones of class "brick" and green ones of class "leaf".
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from data_cases import encoded, write_parquet
from star_training.detection.datasets.base import Box, DetectionSet, Picture, make

CLASSES = ("brick", "leaf")
_COLOURS = ((220, 40, 40), (40, 200, 40))


def scene(number: int, size: int = 64) -> tuple[Image.Image, list[Box]]:
    """An image (size, size) and its boxes, a pure function of the number."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(90, 160, (size, size, 3), dtype=torch.uint8, generator=generator)
    boxes = []
    for label in range(2) if number % 3 == 0 else [number % 2]:
        side = torch.randint(size // 3, size // 2, (2,), generator=generator).tolist()
        # at most one in each half, so that none covers another
        top = label * size // 2 + int(torch.randint(size // 2 - side[0] + 1, (), generator=generator))
        left = int(torch.randint(size - side[1], (), generator=generator))
        pixels[top : top + side[0], left : left + side[1]] = torch.tensor(_COLOURS[label], dtype=torch.uint8)
        boxes.append(Box(label, left, top, left + side[1], top + side[0]))
    return Image.fromarray(pixels.numpy()), boxes


def write_pack(path: Path, train: Sequence[int], val: Sequence[int], size: int = 64) -> Path:
    """Scenes as a pack: boxes in fractions of the image, about their centre."""
    scenes = [scene(number, size) for number in (*train, *val)]
    rows = [
        [[b.label, (b.left + b.right) / 2, (b.top + b.bottom) / 2, b.right - b.left, b.bottom - b.top] for b in boxes]
        for _, boxes in scenes
    ]
    return write_parquet(
        path,
        {"classes": json.dumps({"-1": "none", **dict(enumerate(CLASSES))})},
        image=[encoded(image, "PNG") for image, _ in scenes],
        boxes=[[[row[0], *(value / size for value in row[1:])] for row in boxes] for boxes in rows],
        split=["train"] * len(train) + ["val"] * len(val),
    )


def xml(boxes: Sequence[tuple[str, Box]], size: tuple[int, int] = (64, 64)) -> str:
    """A VOC annotation of an image of (width, height): pixels count from 1, the last belongs to the box."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(b.difficult)}</difficult><bndbox><xmin>{b.left + 1}</xmin>"
        f"<ymin>{b.top + 1}</ymin><xmax>{b.right}</xmax><ymax>{b.bottom}</ymax></bndbox></object>"
        for name, b in boxes
    )
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{objects}</annotation>"
    )


def write_voc(root: Path, lists: Mapping[str, Sequence[int]]) -> Path:
    """Scenes as a VOC folder: the numbers of each list."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, numbers in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{number:06d}\n" for number in numbers))
        for number in numbers:
            image, boxes = scene(number)
            image.save(root / "JPEGImages" / f"{number:06d}.jpg", quality=95)
            named = [(CLASSES[box.label], box) for box in boxes]
            (root / "Annotations" / f"{number:06d}.xml").write_text(xml(named))
    return root


def write_coco(root: Path, split: str, numbers: Sequence[int], **changes: Any) -> Path:
    """Scenes as a COCO folder; `changes` replace whole entries of the JSON."""
    images, annotations = [], []
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number in numbers:
        image, boxes = scene(number)
        image.save(root / split / f"{number:012d}.png")
        images.append({"id": 1000 + number, "file_name": f"{number:012d}.png", "width": 64, "height": 64})
        for b in boxes:
            bbox = [b.left, b.top, b.right - b.left, b.bottom - b.top]
            # categories are neither dense nor in order
            annotations.append({"image_id": 1000 + number, "category_id": 7 + 10 * b.label, "bbox": bbox, "iscrowd": 0})
    categories = [{"id": 17, "name": "leaf"}, {"id": 7, "name": "brick"}]
    data = {"images": images, "annotations": annotations, "categories": categories, **changes}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


def given(*boxes: Sequence[Box], classes: Sequence[str] = CLASSES, size: int = 100) -> DetectionSet:
    """A set of images that nobody looks at, with the boxes of each."""
    return make(
        "given", classes, [Picture(b"", f"image {k}", str(k), size, size, found) for k, found in enumerate(boxes)]
    )
