"""Decodes image files to uint8 RGB tensors (3, H, W) with channels last in memory.

A JPEG can be decoded 2, 4 or 8 times smaller: the decoder then skips fine detail and takes much less time.
Decoding drops transparency (without blending), all frames of an animation but the first, and the EXIF orientation.
torchvision's and timm's loaders do the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .errors import DataError

Encoded = bytes | Path | Image.Image
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


class UndecodableImage(Exception):
    """An image can't be decoded; the message is the reason. Sources count these errors and never let one escape."""


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

    pixels: Tensor  # (3, H, W) uint8

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def shrunk(self, times: int) -> tuple[Tensor, int]:
        """Returns the image at full size and the factor 1, whatever `times` is."""
        return self.pixels, 1


class Jpeg:
    """A JPEG of which only the header has been read; it can be decoded once."""

    def __init__(self, image: Image.Image):
        self._image = image
        self.size = image.height, image.width  # in pixels, at full size

    def shrunk(self, times: int) -> tuple[Tensor, int]:
        """Returns the image downscaled by the largest of 1, 2, 4, 8 that is at most `times`, and that factor.

        Pixel k of the result covers pixels k * factor to (k + 1) * factor of the full image; the last pixel covers
        fewer if the size is no multiple of the factor. Raises `UndecodableImage`.
        """
        height, width = self.size
        factor = max(n for n in (1, 2, 4, 8) if n <= max(1, min(times, height, width)))
        with undecodable():
            if factor > 1:
                self._image.draft(None, (width // factor, height // factor))
            return _pixels(self._image), factor


Picture = Decoded | Jpeg


def opened(encoded: Encoded) -> Picture:
    """Returns the image with its size known; the pixels of a JPEG aren't decoded yet. Raises `UndecodableImage`."""
    with undecodable():
        image = _opened(encoded)
        # other formats can't be decoded at a smaller size, and some only know their size after decoding
        fresh = image is not encoded and image.format in ("JPEG", "MPO")
        return Jpeg(image) if fresh else Decoded(_pixels(image))


def decode(encoded: Encoded) -> Tensor:
    """Returns the image as a uint8 RGB tensor (3, H, W).

    Integer and float greyscale images of more than 8 bits are scaled, not clipped; see `_scaled_to_bytes`.
    Raises `UndecodableImage`, and no other error, if the image can't be decoded completely.
    """
    return opened(encoded).shrunk(1)[0]


def decoded_size(encoded: Encoded) -> int:
    """Returns the size of the decoded image in bytes, from its header alone. Raises `UndecodableImage`."""
    with undecodable():
        image = _opened(encoded)
        return 3 * image.height * image.width


def _opened(encoded: Encoded) -> Image.Image:
    if isinstance(encoded, Image.Image):
        return encoded
    count = encoded.stat().st_size if isinstance(encoded, Path) else len(encoded)
    if count > MOST_ENCODED:
        raise UndecodableImage(f"{count:,} bytes, more than an image may have, {MOST_ENCODED:,}")
    data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
    if not data:
        raise UndecodableImage("zero bytes")
    image = Image.open(BytesIO(data), formats=FORMATS)
    # PIL only warns above its limit; it refuses images above twice the limit
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise UndecodableImage(f"{size}, more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}")
    return image


def _pixels(image: Image.Image) -> Tensor:
    """Returns (3, H, W) uint8 with channels last, PIL's memory layout, from which crops resize several times faster."""
    return torch.from_numpy(np.array(_as_rgb(image))).permute(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_scaled_to_bytes(np.asarray(image, dtype=np.float32), image.mode))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns if such a palette is converted to RGB directly
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_to_bytes(grey: np.ndarray, mode: str) -> np.ndarray:
    """Returns a greyscale image (H, W) of more than 8 bits as uint8, scaled by the range of its mode or its values.

    16-bit modes span 0..65535. The 32-bit modes I and F define no range: an image with values above 255 is read as
    0..65535, floats that never exceed 1 as 0..1, and everything else as 0..255. Values outside the range are clipped.
    """
    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    if mode.startswith("I;16") or grey.max() > 255:
        top = 65535
    elif mode == "F" and grey.max() <= 1:
        top = 1
    else:
        top = 255
    return np.clip(np.rint(grey * (255 / top)), 0, 255).astype(np.uint8)
