"""Whether boxes lie on the pixels as a file stores them, or on the upright image that its EXIF orientation describes.

Both conventions exist: torchvision's and pycocotools' readers leave EXIF aside, detectron2's and most tools to annotate
with show the image upright. The size in the annotation decides for each image. Where it fits both, as that of a square
or of an image turned by 180 degrees does, the other images of the set decide by majority.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image

from ...data.decode import FORMATS, UndecodableImage, undecodable
from ...data.sources.base import DataError
from .base import BoxWarning, Picture

# PIL itself turns a TIFF, and would have to decode the whole of a PNG
_ORIENTED = ("JPEG", "MPO", "WEBP")


def settle(name: str, pictures: Sequence[Picture]) -> list[Picture]:
    """Returns the pictures with the orientation that brings their pixels to the annotation's convention.

    Only headers are read. Raises DataError where one can't be read or has another size than the annotation; warns
    `BoxWarning` of orientations that no majority decides.
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
            sizes = f"{size[1]} x {size[0]} pixels, but its annotation says {picture.width} x {picture.height}"
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
    if upright <= stored:  # torchvision's convention where nothing decides
        for index in doubtful:
            settled[index] = settled[index]._replace(orientation=1)
    return settled


def _doubt(name: str, where: str, count: int, upright: int, stored: int) -> BoxWarning:
    taken = "upright" if upright > stored else "as stored"
    return BoxWarning(
        f"{count} images of {name} such as {where} have an EXIF orientation and an annotation whose size fits the "
        f"stored and the upright image; {upright} other images are annotated upright, {stored} as stored. They are "
        f"taken {taken}: save them without an EXIF orientation if their boxes are wrong."
    )


def _header(path: Path, where: str) -> tuple[tuple[int, int], int]:
    """Returns height and width of the stored pixels, and the EXIF orientation, 1 where there is none."""
    try:
        with undecodable(), Image.open(path, formats=FORMATS) as image:
            return (image.height, image.width), _orientation(image) if image.format in _ORIENTED else 1
    except UndecodableImage as error:
        raise DataError(f"{where} doesn't decode ({error}); repair it or take it out.") from error


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF raises nearly every built-in type, and is no reason to refuse the pixels
        return 1
    return int(value) if value in range(1, 9) else 1
