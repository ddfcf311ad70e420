"""Decodes image files to tensors (C, H, W) with channels last in memory: RGB, C = 3, unless the model takes others.

Pixels are uint8. Images of more than 8 bits keep their depth: their pixels are float32 from 0 to 255, the same scale.

A JPEG can be decoded 2, 4 or 8 times smaller: the decoder then skips fine detail and takes much less time.
Decoding drops transparency (without blending) and all frames of an animation but the first, as torchvision's and timm's
loaders do. Unlike these, it turns images upright by their EXIF orientation, as Hugging Face's datasets does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError
from . import deep
from .errors import UndecodableImage
from .orientation import orientation_of, turned


class As(NamedTuple):
    """An encoded image that is to be decoded to another number of channels than three."""

    encoded: "bytes | Path | Image.Image"
    channels: int


Encoded = bytes | Path | Image.Image | As
MOST_ENCODED = 2**30  # bytes of an encoded image; the most pixels that are decoded take less in any usual format

Image.init()  # loads every plugin now, because decoding threads would race to load them
# PIL opens more formats, but its EPS plugin starts Ghostscript, and it can't decode .pdf, .mpg or .h5.
_PHOTOS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
FORMATS = tuple(name for name in _PHOTOS if name in Image.OPEN)
IMAGE_SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
# Suffixes of image files that can't be decoded here. They are counted, so that no image goes missing unnoticed.
_OTHER_PICTURES = """
    .heic .heif .hif .avif .avifs .webp .jxl .jxr .svg .psd .xcf .eps .exr .hdr .dds .ico .icns .dcm
    .dng .raw .cr2 .cr3 .nef .arw .orf .rw2 .raf .srw .pef
"""
UNREADABLE_SUFFIXES = frozenset(_OTHER_PICTURES.split()) - IMAGE_SUFFIXES


@contextmanager
def undecodable() -> Iterator[None]:
    """Converts every error raised inside to `UndecodableImage`, except those that the image doesn't cause.

    These are MemoryError, and DataError of a file with many images.
    """
    try:
        yield
    except (UndecodableImage, MemoryError, DataError):
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage("not recognised as an image") from error
    except Exception as error:  # PIL's plugins raise nearly every built-in exception for damaged bytes
        raise UndecodableImage(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Decoded:
    """An image that is already decoded, at full size."""

    pixels: Tensor  # (C, H, W)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def shrunk(self, times: int) -> tuple[Tensor, int]:
        """Returns the image at full size and the factor 1, whatever `times` is."""
        return self.pixels, 1


class Jpeg:
    """A JPEG of which only the header has been read; it can be decoded once."""

    def __init__(self, image: Image.Image, channels: int = 3):
        self._image, self._channels, self._orientation = image, channels, orientation_of(image)
        height, width = (image.width, image.height) if self._orientation >= 5 else (image.height, image.width)
        self.size = height, width  # in pixels, at full size and upright

    def shrunk(self, times: int) -> tuple[Tensor, int]:
        """Returns the image downscaled by the largest of 1, 2, 4, 8 that is at most `times`, and that factor.

        Pixel k of the result covers pixels k * factor to (k + 1) * factor of the full image; the last pixel covers
        fewer if the size is no multiple of the factor. A turned image, in which that pixel may come first, is only
        downscaled by factors of its size. Raises `UndecodableImage`.
        """
        width, height = self._image.size
        factors = [n for n in (1, 2, 4, 8) if n <= max(1, min(times, height, width))]
        if self._orientation > 1:
            factors = [n for n in factors if height % n == width % n == 0]
        factor = max(factors)
        with undecodable():
            if factor > 1:
                self._image.draft(None, (width // factor, height // factor))
            return _pixels(self._image, self._channels, self._orientation), factor


Picture = Decoded | Jpeg


def opened(encoded: Encoded) -> Picture:
    """Returns the image with its size known; the pixels of a JPEG aren't decoded yet. Raises `UndecodableImage`."""
    encoded, channels = encoded if isinstance(encoded, As) else (encoded, 3)
    with undecodable():
        image = _opened(encoded)
        if isinstance(image, deep.Values):
            return Decoded(_as_tensor(turned(deep.pixels(image, channels), image.orientation)))
        # other formats can't be decoded at a smaller size, and some only know their size after decoding
        fresh = image is not encoded and image.format in ("JPEG", "MPO")
        return Jpeg(image, channels) if fresh else Decoded(_pixels(image, channels))


def decode_stored(encoded: bytes | Path, orientation: int) -> Tensor:
    """Returns an image in RGB, turned by this EXIF orientation instead of its own; a TIFF is upright before.

    Raises `UndecodableImage`.
    """
    with undecodable():
        image = _opened(encoded)
        if isinstance(image, deep.Values):
            return _as_tensor(turned(deep.pixels(image, 3), orientation))
        return _pixels(image, 3, orientation)


def decode(encoded: Encoded) -> Tensor:
    """Returns the image as a tensor (C, H, W), uint8, or float32 from 0 to 255 if it has more than 8 bits.

    Values of more than 8 bits are scaled; see `deep.scaled`.
    Raises `UndecodableImage`, and no other error, if the image can't be decoded completely.
    """
    return opened(encoded).shrunk(1)[0]


def decoded_size(encoded: Encoded) -> int:
    """Returns the size of the decoded image in bytes, mostly from its header alone. Raises `UndecodableImage`."""
    encoded, channels = encoded if isinstance(encoded, As) else (encoded, 3)
    with undecodable():
        image = _opened(encoded)
        if isinstance(image, deep.Values):
            return deep.pixels(image, channels).nbytes
        bytes_each = 4 if image.mode in ("I", "F") or image.mode.startswith("I;16") else 1
        return channels * image.height * image.width * bytes_each


def _opened(encoded: bytes | Path | Image.Image) -> Image.Image | deep.Values:
    if isinstance(encoded, Image.Image):
        return encoded
    count = encoded.stat().st_size if isinstance(encoded, Path) else len(encoded)
    if count > MOST_ENCODED:
        raise UndecodableImage(f"{count:,} bytes, more than an image may have, {MOST_ENCODED:,}")
    data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
    if not data:
        raise UndecodableImage("zero bytes")
    if (values := deep.read(data)) is not None:
        return values
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if (values := deep.read_tiff(data, None)) is None:
            raise
        return values
    # PIL only warns above its limit; it refuses images above twice the limit
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise UndecodableImage(f"{size}, more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}")
    return deep.read_tiff(data, image) or image


def _pixels(image: Image.Image, channels: int, orientation: int | None = None) -> Tensor:
    """Returns (C, H, W) with channels last, PIL's memory layout, from which crops resize several times faster.

    The image is turned by its own EXIF orientation, or by the given one.
    """
    array = _array(image, channels)
    return _as_tensor(turned(array, orientation_of(image) if orientation is None else orientation))


def _array(image: Image.Image, channels: int) -> np.ndarray:
    """Returns the stored pixels, (H, W, C)."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        kind = np.uint16 if image.mode.startswith("I;16") else np.int32 if image.mode == "I" else np.float32
        return deep.pixels(deep.Values(np.asarray(image).astype(kind)[..., None], 1), channels)
    array = np.array(_in_channels(image, channels))
    return array if array.ndim == 3 else array[..., None]


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image of 8 bits with so many channels; only one and three are made from another number."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns if such a palette is converted to RGB directly
    elif image.mode == "P" and channels not in (1, 3):
        image = image.convert("RGB")
    image.load()
    if channels in (1, 3):
        mode = "RGB" if channels == 3 else "L"
        return image if image.mode == mode else image.convert(mode)
    if (found := len(image.getbands())) != channels:
        raise UndecodableImage(deep.wrong_channels(found, channels))
    return image
