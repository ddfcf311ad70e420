"""Opens a `DetectionSet` from a path and a split's name."""

import os
from pathlib import Path

from ...data.sources.base import DataError
from . import coco, pack, voc
from .base import DetectionSet, join

LAYOUTS = (
    "a .parquet file with a column 'boxes', a VOC folder (JPEGImages, Annotations, ImageSets/Main) or a COCO folder "
    "(annotations/instances_*.json beside the images)"
)


def open_set(spec: str, split: str) -> DetectionSet:
    """Opens one split of a data set with boxes, or several joined, e.g. "VOC2007/trainval+VOC2012/trainval".

    Args:
        spec: the path of one of `LAYOUTS`, or of a folder that holds such.
        split: the name of the split, preceded by a sub-folder of `spec` if the data set is in one.

    Raises DataError for data that can't be used; warns `BoxWarning` of boxes that are left out.
    """
    found = []
    for part in split.split("+"):
        folder, _, name = part.rpartition("/")
        root = Path(os.path.expanduser(spec)) / folder
        if root.is_file() and root.suffix.lower() == ".parquet":
            found.append(pack.read(root, name))
        elif (root / voc.LISTS).is_dir():
            found.append(voc.read(root, name))
        elif (root / coco.ANNOTATIONS).is_dir():
            found.append(coco.read(root, name))
        else:
            wrong = "is none of the known layouts" if root.exists() else "doesn't exist"
            raise DataError(f"{root} {wrong}; pass {LAYOUTS}. A split may name a sub-folder: 'VOC2007/trainval'.")
    return join(found)
