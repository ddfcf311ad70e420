"""EXIF orientations: how an image that a camera stored turned or mirrored is shown upright."""

import numpy as np
from PIL import ExifTags, Image

AS_STORED = 1


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation of the pixels, 1 to 8; 1, as stored, if there is none.

    Once a TIFF is loaded, PIL has turned its pixels, and it has none.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, AS_STORED)
    except Exception:  # broken EXIF raises almost any built-in exception; the pixels are still usable
        return AS_STORED
    return int(value) if value in range(1, 9) else AS_STORED


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a view of stored pixels (H, W, C) that shows them upright, given the EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # the number encodes which stored corner is shown top left
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]
