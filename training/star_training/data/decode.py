"""Any image file to one form: a uint8 RGB tensor (3, H, W), its pixels side by side in memory (channels last).

A JPEG can be had 2, 4 or 8 times smaller, which its decoder does by leaving out fine detail, in much less time.
Lost on the way: transparency (dropped, not blended), all frames of an animation but the first, the EXIF orientation.
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

Encoded = bytes | Path | Image.Image

Image.init()  # loads every plugin now: decoding threads would race for it
# Not all that PIL opens: its EPS plugin starts Ghostscript, and .pdf, .mpg or .h5 are only ever recognised.
_PHOTOS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
FORMATS = tuple(name for name in _PHOTOS if name in Image.OPEN)
IMAGE_SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
# of files that hold pictures which are not decoded here: they are counted, so that none goes missing unseen
_OTHER_PICTURES = """
    .heic .heif .hif .avif .avifs .webp .jxl .jxr .svg .psd .xcf .eps .exr .hdr .dds .ico .icns .dcm
    .dng .raw .cr2 .cr3 .nef .arw .orf .rw2 .raf .srw .pef
"""
UNREADABLE_SUFFIXES = frozenset(_OTHER_PICTURES.split()) - IMAGE_SUFFIXES


class UndecodableImage(Exception):
    """One image can't be decoded; the message is the reason. The sources count these and never let one out."""


@contextmanager
def undecodable() -> Iterator[None]:
    """Turns every error raised inside into `UndecodableImage`, but one: the image is no cause of a lack of memory."""
    try:
        yield
    except (UndecodableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage("not recognised as an image") from error
    except Exception as error:  # on broken bytes PIL's plugins raise nearly every built-in type
        raise UndecodableImage(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Decoded:
    """An image that is decoded already, and as large as it is."""

    pixels: Tensor  # (3, H, W) uint8

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def shrunk(self, times: int) -> tuple[Tensor, int]:
        """The image, and that it is 1 times smaller, whatever was asked for."""
        return self.pixels, 1


class Jpeg:
    """A JPEG of which only the header is read, to be decoded once."""

    def __init__(self, image: Image.Image):
        self._image = image
        self.size = image.height, image.width  # in pixels, of the whole image

    def shrunk(self, times: int) -> tuple[Tensor, int]:
        """The image by the largest of 1, 2, 4, 8 that `times` allows smaller, and that number.

        Pixel k of the smaller one stands for pixels k * number to (k + 1) * number of the whole; where they don't come
        out even, the last one stands for the fewer that are left. Raises `UndecodableImage`.
        """
        height, width = self.size
        number = max(n for n in (1, 2, 4, 8) if n <= max(1, min(times, height, width)))
        with undecodable():
            if number > 1:
                self._image.draft(None, (width // number, height // number))
            return _pixels(self._image), number


Picture = Decoded | Jpeg


def opened(encoded: Encoded) -> Picture:
    """The image with its size known and, if it is a JPEG, its pixels yet to be decoded. Raises `UndecodableImage`."""
    with undecodable():
        image = _opened(encoded)
        # other formats can't be had smaller, and some learn their size only while they decode
        fresh = image is not encoded and image.format in ("JPEG", "MPO")
        return Jpeg(image) if fresh else Decoded(_pixels(image))


def decode(encoded: Encoded) -> Tensor:
    """The image as a uint8 RGB tensor (3, H, W).

    Integer and float greys of more than 8 bits are scaled, not clipped; see `_scaled_to_bytes`.
    Raises `UndecodableImage`, and nothing else, for whatever can't be decoded whole.
    """
    return opened(encoded).shrunk(1)[0]


def decoded_size(encoded: Encoded) -> int:
    """Bytes that the decoded image would take, from its header alone. Raises `UndecodableImage`."""
    with undecodable():
        image = _opened(encoded)
        return 3 * image.height * image.width


def _opened(encoded: Encoded) -> Image.Image:
    if isinstance(encoded, Image.Image):
        return encoded
    data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
    if not data:
        raise UndecodableImage("zero bytes")
    image = Image.open(BytesIO(data), formats=FORMATS)
    # PIL itself refuses only twice its limit and warns below that
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise UndecodableImage(f"{size}, more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}")
    return image


def _pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8, as PIL has it in memory: channels last, which crops are several times faster to resize from."""
    return torch.from_numpy(np.array(_as_rgb(image))).permute(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_scaled_to_bytes(np.asarray(image, dtype=np.float32), image.mode))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns when such a palette goes straight to RGB
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_to_bytes(grey: np.ndarray, mode: str) -> np.ndarray:
    """Greys of more than 8 bits (H, W) as uint8, by the range that the mode or the values announce.

    16-bit modes span 0..65535. The 32-bit modes I and F don't say: above 255 they are read as 0..65535,
    floats that never pass 1 as 0..1, everything else as 0..255. What lies outside the range is clipped.
    """
    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    if mode.startswith("I;16") or grey.max() > 255:
        top = 65535
    elif mode == "F" and grey.max() <= 1:
        top = 1
    else:
        top = 255
    return np.clip(np.rint(grey * (255 / top)), 0, 255).astype(np.uint8)
