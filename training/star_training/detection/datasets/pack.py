"""A Parquet file with boxes: `image` (encoded bytes), `boxes` (rows of class, centre x, y, width, height), `split`.

Centre and size are fractions of the image, as YOLO writes them; schema metadata `classes` is JSON with the names.
"""

import json
import zlib
from pathlib import Path
from typing import Any

from star_catalog.machine import memory

from ...data.decode import UndecodableImage, decode_stored, undecodable
from ...data.sources.base import DataError
from ...data.sources.parquet import open_parquet
from ...data.sources.parquet_rows import read_rows, readable
from .base import Box, DetectionSet, Picture, make

_LABELS = 2**16  # so many classes at most: each takes memory, also without a box
_OBJECTS = 8  # bytes of Python's objects for each byte of boxes that Arrow holds


def read(path: Path, split: str) -> DetectionSet:
    """Returns the images of one split. Raises DataError."""
    raw = open_parquet({"train": [path]}, split, {})
    boxes, names = _boxes(path)
    pictures = []
    for index, (_, row) in enumerate(raw.places.tolist()):
        where = raw.describe(index)
        try:
            with undecodable():  # also a path of no file, or of a file that can't be read
                data = raw.encoded(index)
                data = data.read_bytes() if isinstance(data, Path) else data
                height, width = decode_stored(data, 1).shape[1:]
        except UndecodableImage as error:
            raise DataError(f"{where} doesn't decode ({error}); repair it or take it out.") from error
        try:
            found = [_pixels(entry, height, width) for entry in boxes[row] or []]
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{where} has boxes {boxes[row]!r}; expected rows of class, x, y, width, height."
            ) from error
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
        metadata = file.schema_arrow.metadata or {}
    with readable([path]):
        column = read_rows([path], {"boxes": "boxes"}, None)[0]["boxes"]
    # equal values are stored once, so that a small file may hold any number of boxes
    if _OBJECTS * column.nbytes > memory() // 2:
        raise DataError(f"the boxes of {path} need more memory than half of this machine's; divide the file.")
    try:
        names = json.loads(metadata.get(b"classes", b"{}"))
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        # labels below 0 mark images without objects
        found = {int(label): str(name) for label, name in pairs if int(label) >= 0}
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        rule = "expected a JSON list of names or an object from label to name"
        raise DataError(f"can't read the class names in the metadata of {path} ({error}); {rule}.") from error
    if max(found, default=0) >= _LABELS:
        raise DataError(f"{path} names a class above {_LABELS - 1:,}; number the classes from 0.")
    return column.to_pylist(), found


def _pixels(entry: list[float], height: int, width: int) -> Box:
    label, x, y, w, h = entry
    if label not in range(_LABELS):
        raise ValueError("a class is a whole number")
    return Box(int(label), (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
