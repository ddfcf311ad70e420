"""A Parquet file with boxes: `image` (encoded bytes), `boxes` (rows of class, centre x, y, width, height), `split`.

Centre and size are fractions of the image, as YOLO writes them; schema metadata `classes` is JSON with the names.
"""

import json
import zlib
from pathlib import Path
from typing import Any

from ...data.decode import UndecodableImage
from ...data.sources.base import DataError
from ...data.sources.parquet import open_parquet
from ...data.sources.raw import load
from .base import Box, DetectionSet, Picture, make


def read(path: Path, split: str) -> DetectionSet:
    """Returns the images of one split. Raises DataError."""
    raw = open_parquet({"train": [path]}, split, {})
    boxes, names = _boxes(path)
    pictures = []
    for index, (_, row) in enumerate(raw.places.tolist()):
        where = raw.describe(index)
        try:
            height, width = load(raw, index).shape[1:]
        except UndecodableImage as error:
            raise DataError(f"{where} doesn't decode ({error}); repair it or take it out.") from error
        try:
            found = [_pixels(entry, height, width) for entry in boxes[row] or []]
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{where} has boxes {boxes[row]!r}; expected rows of class, x, y, width, height."
            ) from error
        data = raw.encoded(index)
        data = data.read_bytes() if isinstance(data, Path) else data
        pictures.append(Picture(data, where, f"{zlib.crc32(data):08x}", height, width, found))
    labels = [box.label for picture in pictures for box in picture.boxes]
    count = max([*labels, *names], default=-1) + 1
    return make(path.stem, [names.get(label, str(label)) for label in range(count)], pictures)


def _boxes(path: Path) -> tuple[list[Any], dict[int, str]]:
    """Returns the column `boxes` of all rows, and the class names by label."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        if "boxes" not in file.schema_arrow.names:
            raise DataError(f"{path} has no column 'boxes', only {', '.join(file.schema_arrow.names)}.")
        boxes = file.read(["boxes"])["boxes"].to_pylist()
        metadata = file.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata.get(b"classes", b"{}"))
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        # labels below 0 mark images without objects
        return boxes, {int(label): str(name) for label, name in pairs if int(label) >= 0}
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        rule = "expected a JSON list of names or an object from label to name"
        raise DataError(f"can't read the class names in the metadata of {path} ({error}); {rule}.") from error


def _pixels(entry: list[float], height: int, width: int) -> Box:
    label, x, y, w, h = entry
    if label not in range(2**16):
        raise ValueError("a class is a whole number")
    return Box(int(label), (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
