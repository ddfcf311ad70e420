"""Images that a camera stored turned or mirrored are read upright, as Pillow turns them, wherever they lie."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageOps

from data_cases import write_folder, write_parquet, write_tar
from star_training.data import decode, open_source
from star_training.data.decode import As, decode_stored, decoded_size, opened
from star_training.data.lazy import StreamedSource
from star_training.data.sources.folder import open_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
SMOOTH = np.linspace(0, 255, 64 * 32).reshape(64, 32).astype(np.uint8)


def stored(pixels: np.ndarray, orientation: int, kind: str, **settings) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(file, kind, exif=exif, **settings)
    return file.getvalue()


def upright(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


def hwc(image: torch.Tensor) -> np.ndarray:
    assert image.permute(1, 2, 0).is_contiguous()
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_read_as_pillow_turns_it(orientation: int):
    for kind, settings in {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}.items():
        data = stored(PIXELS, orientation, kind, **settings)
        expected = upright(data)
        assert np.array_equal(hwc(decode(data)), expected), kind
        assert opened(data).size == expected.shape[:2] and decoded_size(data) == expected.size
        assert np.array_equal(
            hwc(decode(Image.open(io.BytesIO(data)))), expected
        )  # as torchvision's data sets return it
        if kind != "TIFF":  # which Pillow turns itself
            as_stored = np.asarray(Image.open(io.BytesIO(data)))
            assert np.array_equal(hwc(decode_stored(data, 1)), as_stored)
            assert np.array_equal(hwc(decode_stored(data, orientation)), expected)
    grey = stored(PIXELS[..., 0], orientation, "PNG")
    assert np.array_equal(hwc(decode(As(grey, 1)))[..., 0], upright(grey))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_as_those_of_8_bits(orientation: int):
    expected = upright(stored(PIXELS, orientation, "PNG"))
    words = PIXELS.astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in words)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    parts = {b"IHDR": struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    parts = {b"IHDR": parts[b"IHDR"], b"IDAT": parts[b"IDAT"], b"eXIf": exif.tobytes()[6:], b"IEND": b""}
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts.items()
    )
    assert np.array_equal(hwc(decode(png)), expected.astype(np.float32))
    file = io.BytesIO()
    tifffile.imwrite(file, words, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(hwc(decode(file.getvalue())), expected.astype(np.float32))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_jpeg_is_turned_and_covers_the_same_pixels(orientation: int):
    for height, width, of_turned in ((64, 32, 8), (60, 28, 4), (63, 30, 1)):
        times = of_turned if orientation > 1 else 8
        data = stored(SMOOTH[:height, :width], orientation, "JPEG", quality=95)
        picture, whole = opened(data), hwc(decode(data))[..., 0].astype(float)
        small, factor = picture.shrunk(8)
        assert factor == times
        rows, columns = (side // times for side in whole.shape)
        means = whole[: rows * times, : columns * times].reshape(rows, times, columns, times).mean((1, 3))
        assert np.abs(hwc(small)[:rows, :columns, 0] - means).max() < 4


def test_images_are_upright_in_every_layout(tmp_path):
    files = {f"{k}.jpg": stored(SMOOTH, k, "JPEG") for k in range(1, 9)}
    expected = [decode(data) for data in files.values()]
    assert [image.shape[1] for image in expected] == [64] * 4 + [32] * 4
    write_folder(tmp_path / "folder", files)
    write_parquet(tmp_path / "pack.parquet", image=list(files.values()), label=[0] * 8)
    write_tar(tmp_path / "shard.tar", files)
    for place in ("folder", "pack.parquet", "shard.tar"):
        source = open_source(str(tmp_path / place))
        assert all(torch.equal(source[k], image) for k, image in enumerate(expected)), place
    streamed = StreamedSource("x", open_folder(tmp_path / "folder", "train"), max_bad=0)
    assert all(torch.equal(streamed[k], image) for k, image in enumerate(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, when it opens the file
def test_broken_exif_leaves_an_image_as_it_is_stored():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 9
    for broken in (exif.tobytes(), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"):
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "JPEG", exif=broken)
        assert decode(file.getvalue()).shape == (3, 5, 7)
