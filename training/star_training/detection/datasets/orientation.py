"""Decides whether boxes refer to the stored pixels or to the image turned upright by its EXIF orientation.

Both conventions exist: torchvision's and pycocotools' readers ignore EXIF, while detectron2's and most annotation tools
show the image upright. The size in the annotation decides for each image. If it fits both, e.g. for square images or
images turned by 180 degrees, the majority of the other images decides.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...data.decode import FORMATS, UndecodableImage, orientation_of, undecodable
from ...data.sources.base import DataError
from .base import BoxWarning, Picture

# PIL turns a TIFF itself, and would have to decode a whole PNG for its EXIF
_ORIENTED = ("JPEG", "MPO", "WEBP")


def settle(name: str, pictures: Sequence[Picture]) -> list[Picture]:
    """Returns the pictures with the orientation that brings their pixels to the annotation's convention.

    Only headers are read. Raises DataError if one can't be read or has another size than the annotation; warns
    `BoxWarning` of orientations without a majority.
    """
    settled: list[Picture] = []
    doubtful: list[int] = []
    upright = stored = 0
    for picture in pictures:
        assert isinstance(picture.encoded, Path)
        size, orientation = _header(picture.encoded, picture.where)
        turned = size[::-1] if orientation >= 5 else size
        annotated = picture.height, picture.width
        if annotated not in (size, turned):
            sizes = f"{size[1]} x {size[0]} pixels, but {picture.width} x {picture.height} in its annotation"
            raise DataError(f"{picture.where} has {sizes}; its boxes would be wrong: repair the annotation.")
        if size != turned:
            upright += annotated == turned
            stored += annotated == size
            orientation = orientation if annotated == turned else 1
        elif orientation > 1:
            doubtful.append(len(settled))
        settled.append(picture._replace(orientation=orientation))
    unanimous = min(upright, stored) == 0 < max(upright, stored)
    if doubtful and not unanimous:
        warnings.warn(_doubt(name, pictures[doubtful[0]].where, len(doubtful), upright, stored), stacklevel=3)
    if upright <= stored:  # torchvision's convention if there is no majority
        for index in doubtful:
            settled[index] = settled[index]._replace(orientation=1)
    return settled


def _doubt(name: str, where: str, count: int, upright: int, stored: int) -> BoxWarning:
    taken = "upright" if upright > stored else "as stored"
    return BoxWarning(
        f"{count} images of {name}, e.g. {where}, have an EXIF orientation and an annotation whose size fits both the "
        f"stored and the upright image; {upright} other images are annotated upright, {stored} as stored. They are "
        f"read {taken}; if their boxes are wrong, save them without an EXIF orientation."
    )


def _header(path: Path, where: str) -> tuple[tuple[int, int], int]:
    """Returns height and width of the stored pixels, and the EXIF orientation, 1 if there is none."""
    try:
        with undecodable(), Image.open(path, formats=FORMATS) as image:
            return (image.height, image.width), orientation_of(image) if image.format in _ORIENTED else 1
    except UndecodableImage as error:
        raise DataError(f"{where} doesn't decode ({error}); repair it or take it out.") from error
