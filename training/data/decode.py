"""Any image file to one form: a uint8 RGB tensor (3, H, W).

Lost on the way: transparency (dropped, not blended), all frames of an animation but the first, the EXIF orientation.
torchvision's and timm's loaders do the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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


class UndecodableImage(Exception):
    """One image can't be decoded; the message is the reason. The sources count these and never let one out."""


@contextmanager
def undecodable() -> Iterator[None]:
    """Turns every error raised inside into `UndecodableImage`."""
    try:
        yield
    except UndecodableImage:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage("not recognised as an image") from error
    except Exception as error:  # on broken bytes PIL's plugins raise nearly every built-in type
        raise UndecodableImage(f"{type(error).__name__}: {error}") from error


def decode(encoded: Encoded) -> Tensor:
    """The image as a uint8 RGB tensor (3, H, W).

    Integer and float greys of more than 8 bits are scaled, not clipped; see `_scaled_to_bytes`.
    Raises `UndecodableImage`, and nothing else, for whatever can't be decoded whole.
    """
    with undecodable(), _opened(encoded) as image:
        # NumPy turns the axes in this thread; torch would start its own threads inside each of the decoding ones
        return torch.from_numpy(np.array(np.asarray(_as_rgb(image)).transpose(2, 0, 1), order="C"))


def decoded_size(encoded: Encoded) -> int:
    """Bytes that the decoded image would take, from its header alone. Raises `UndecodableImage`."""
    with undecodable(), _opened(encoded) as image:
        return 3 * image.height * image.width


@contextmanager
def _opened(encoded: Encoded) -> Iterator[Image.Image]:
    if isinstance(encoded, Image.Image):
        yield encoded
        return
    data = encoded.read_bytes() if isinstance(encoded, Path) else encoded
    if not data:
        raise UndecodableImage("zero bytes")
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        # PIL itself refuses only twice its limit and warns below that
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            size = f"{image.width} x {image.height} pixels"
            raise UndecodableImage(f"{size}, more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}")
        yield image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_scaled_to_bytes(np.asarray(image, dtype=np.float32), image.mode))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns when such a palette goes straight to RGB
    return image.convert("RGB")


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
