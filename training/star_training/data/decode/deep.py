"""Images that Pillow doesn't decode completely: arrays in .npy files, PNG of 16 bits, TIFF of many channels or bits.

Letters: H, W size in pixels, C channels.
"""

import importlib
import math
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .errors import UndecodableImage
from .orientation import AS_STORED, orientation_of, turned

ARRAY_SUFFIX = ".npy"
_NPY, _PNG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_CHANNELS = {2: 3, 4: 2, 6: 4}  # by the type in the header, for those that Pillow reduces to 8 bits
_MOST_CHANNELS = 1024
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow


class Values(NamedTuple):
    """The values of an image, (H, W, C) of any type; the first `colors` channels are colours, the rest is alpha."""

    array: np.ndarray
    colors: int
    orientation: int = AS_STORED  # EXIF's


def read(data: bytes) -> Values | None:
    """Returns the values of an .npy file or of a PNG of 16 bits; None for other files."""
    if data.startswith(_NPY):
        return _npy(data)
    if data.startswith(_PNG) and len(data) > 25 and data[24] == 16 and data[25] in _PNG_CHANNELS:
        return _png(data)
    return None


def read_tiff(data: bytes, image: Image.Image | None) -> Values | None:
    """Returns the values of a TIFF that Pillow opened as `image`, or not at all; None if Pillow decodes it completely.

    Pillow decodes at most four channels, and at most 8 bits of several.
    """
    if not data.startswith(_TIFFS):
        return None
    if image is not None:
        tags: Any = getattr(image, "tag_v2", {})
        channels, bits = tags.get(277, 1), tags.get(258, (1,))
        if channels == 1 or (channels == len(image.getbands()) and max(bits) <= 8):
            return None
    tifffile = _imported("tifffile", "TIFF of many channels or bits")
    with tifffile.TiffFile(BytesIO(data)) as file:
        page: Any = file.pages[0]
        _check_shape(page.shape)
        array = page.asarray()
        array = np.moveaxis(array, 0, -1) if page.axes == "SYX" else array
        extra, orientation = len(page.extrasamples or ()), page.tags.valueof(274, AS_STORED)
    values = _as_image(array)
    colors = values.array.shape[-1] - extra
    upright = turned(values.array, orientation if orientation in range(1, 9) else AS_STORED)  # as Pillow does
    return Values(upright, colors if extra == 1 and colors in (1, 3) else values.array.shape[-1])


def _npy(data: bytes) -> Values:
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(file)
    if math.prod(shape) * kind.itemsize > len(data) - file.tell():  # before memory is allocated for it
        raise UndecodableImage(f"truncated: an array of shape {shape} in {len(data)} bytes")
    return _as_image(np.load(BytesIO(data), allow_pickle=False))


def _png(data: bytes) -> Values:
    codecs = _imported("imagecodecs", "PNG of 16 bits in colour or with alpha")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    channels = _PNG_CHANNELS[data[25]]
    _check_shape((height, width, channels))
    orientation = AS_STORED
    if b"eXIf" in data:  # anywhere in the file
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            orientation = orientation_of(image)
    return Values(codecs.png_decode(data), 3 if channels > 2 else 1, orientation)


def _imported(library: str, kind: str) -> Any:
    """Returns an optional library. Raises UndecodableImage with the kind of image that needs it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UndecodableImage(f"{kind}, which needs {library}: pip install 'star-zoo[deep]'") from error


def _check_shape(shape: tuple[int, ...]) -> None:
    """Raises UndecodableImage for more pixels than PIL.Image.MAX_IMAGE_PIXELS, as for images of other formats."""
    pixels = math.prod(shape) // (min(shape) if len(shape) == 3 else 1)
    if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
        raise UndecodableImage(f"an image of shape {shape}, more than {Image.MAX_IMAGE_PIXELS} pixels")


def _as_image(array: np.ndarray) -> Values:
    """Returns an array (H, W), (H, W, C) or, if the first axis is the shortest, (C, H, W) as an image."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.dtype.kind not in "biuf" or not array.size:
        raise UndecodableImage(
            f"an array of shape {array.shape} of {array.dtype}; expected (H, W) or (H, W, C) numbers"
        )
    if array.shape[0] < min(array.shape[1:]):
        array = np.moveaxis(array, 0, -1)
    if array.shape[-1] > _MOST_CHANNELS:
        raise UndecodableImage(f"an array of shape {array.shape}; an image has at most {_MOST_CHANNELS} channels")
    return Values(array, array.shape[-1])


def pixels(values: Values, channels: int) -> np.ndarray:
    """Returns an image as uint8, or as float32 from 0 to 255 if it has more than 8 bits, with so many channels.

    Grey becomes three equal channels, and three become their luma; alpha is dropped for one and three channels. Raises
    UndecodableImage for other numbers of channels.
    """
    array = scaled(values.array)
    if channels in (1, 3):
        array = array[..., : values.colors]
    found = array.shape[-1]
    if found == channels:
        return array
    if (found, channels) == (1, 3):
        return np.repeat(array, 3, axis=-1)
    if (found, channels) == (3, 1):
        grey = array @ np.array(_LUMA, dtype=np.float32)
        return (np.rint(grey).astype(np.uint8) if array.dtype == np.uint8 else grey)[..., None]
    raise UndecodableImage(wrong_channels(found, channels))


def wrong_channels(found: int, wanted: int) -> str:
    """Returns the reason why an image can't be used."""
    return f"number of channels: {found}, but the model takes {wanted} (backbone_args.in_chans)"


def scaled(array: np.ndarray) -> np.ndarray:
    """Returns values of any type on the scale of 8 bits: uint8 as they are, others as float32 from 0 to 255.

    16 bits without sign span 0..65535. Other types define no range: an image with values above 255 is read as
    0..65535, floats that never exceed 1 as 0..1, and everything else as 0..255. Values outside the range are clipped,
    and those that aren't finite become 0. Raises UndecodableImage if none is finite.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    is_float, is_16_bit = array.dtype.kind == "f", array.dtype.kind == "u" and array.dtype.itemsize == 2
    if is_float and not np.isfinite(array).any():
        raise UndecodableImage("none of its values is finite")
    array = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if is_16_bit or array.max() > 255:
        top = 65535
    elif is_float and array.max() <= 1:
        top = 1
    else:
        top = 255
    return np.clip(array * np.float32(255 / top), 0, 255)
