"""The COCO layout: annotations/instances_SPLIT.json, images in images/SPLIT, SPLIT or images."""

import json
from pathlib import Path
from typing import Any

from star_catalog.reading import one_line

from ...data.sources.base import DataError, NoSuchSplit
from ...data.split_names import split_names
from .base import Box, DetectionSet, Picture, make
from .orientation import settle

ANNOTATIONS = "annotations"
_PREFIX = "instances_"


def read(root: Path, split: str) -> DetectionSet:
    """Returns the images of one split, e.g. "val2017", or "val" if only one split matches. Raises DataError."""
    file = _choose(root / ANNOTATIONS, split)
    full = file.stem.removeprefix(_PREFIX)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        categories = sorted(data["categories"], key=lambda category: category["id"])
        labels = {category["id"]: label for label, category in enumerate(categories)}
        boxes: dict[Any, list[Box]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            boxes[annotation["image_id"]].append(_box(annotation, labels))
        folder = _folder(root, full)
        pictures = [_picture(folder, image, boxes[image["id"]]) for image in data["images"]]
        names = [str(category["name"]) for category in categories]
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{file} is no COCO annotation: {error} is missing or unknown.") from error
    except (OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise DataError(f"can't read the annotations {file}: {one_line(error)}.") from error
    name = f"{root.name} {full}"
    return make(name, names, settle(name, pictures))


def _choose(folder: Path, split: str) -> Path:
    """Returns the annotations of a split, by its full name or the beginning of it."""
    files = {path.stem.removeprefix(_PREFIX): path for path in sorted(folder.glob(f"{_PREFIX}*.json"))}
    for name in split_names(split):
        if name in files:
            return files[name]
    meant = [full for full in files if full.startswith(split_names(split))]
    if len(meant) == 1:
        return files[meant[0]]
    known = ", ".join(files) or "none"
    reason = f"several match, {', '.join(meant)}; pass one in full" if meant else f"not found; known: {known}"
    raise NoSuchSplit(f"split {split!r} of {folder}: {reason}.")


def _folder(root: Path, full: str) -> Path:
    for folder in (root / "images" / full, root / full, root / "images"):
        if folder.is_dir():
            return folder
    raise DataError(f"the images of {full} are missing: expected {root / full} or {root / 'images' / full}.")


def _picture(folder: Path, image: dict[str, Any], boxes: list[Box]) -> Picture:
    name = Path(image["file_name"])
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"file_name {str(name)!r} leaves {folder}; expected a path inside it.")
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path} doesn't exist, but the annotations list it.")
    return Picture(path, str(path), name.as_posix(), int(image["height"]), int(image["width"]), boxes)


def _box(annotation: dict[str, Any], labels: dict[Any, int]) -> Box:
    left, top, width, height = map(float, annotation["bbox"])
    crowd = bool(annotation.get("iscrowd", 0))
    return Box(labels[annotation["category_id"]], left, top, left + width, top + height, crowd=crowd)
