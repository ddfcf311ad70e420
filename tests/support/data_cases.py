"""Small data sets on disk for the tests of data. Every image is a flat colour of its own."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import webdataset
from PIL import Image

BROKEN = b"\x89PNG\r\n\x1a\n but no more"


def picture(number: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    """A flat (width, height) image whose first channel is `number`."""
    return Image.new("RGB", size, (number, 10, 200))


def png(number: int, size: tuple[int, int] = (6, 4)) -> bytes:
    return encoded(picture(number, size), "PNG")


def encoded(image: Image.Image, format: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def numbers(source: Any) -> list[int]:
    """Which images a source holds, in order."""
    return [int(source[index][0, 0, 0]) for index in range(len(source))]


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def flat_folder(root: Path, count: int, broken: Iterable[int] = ()) -> Path:
    """Images 000.png, 001.png, ...; the `broken` ones don't decode."""
    bad = set(broken)
    return write_folder(
        root, {f"{number:03d}.png": BROKEN if number in bad else png(number) for number in range(count)}
    )


def write_parquet(path: Path, metadata: Mapping[str, str] | None = None, **columns: Any) -> Path:
    table = pyarrow.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    # small row groups, so that some hold none of the wanted rows
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()
    )


# What a file may hold, and what must come out of it (H, W, 3), computed without PIL's conversions.

_GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
_RGB = np.stack([_GREY, _GREY.T, 255 - _GREY], axis=-1)
_INKS = np.stack([_GREY, _GREY.T, 255 - _GREY, _GREY // 2], axis=-1)
_ALPHA = np.where(_GREY > 99, 0, 255).astype(np.uint8)
_DEEP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
_PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)


def _three(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def _image(pixels: np.ndarray, mode: str) -> Image.Image:
    return Image.frombytes(mode, (16, 16), pixels.tobytes())


def _indexed() -> Image.Image:
    image = _image(_GREY, "P")
    image.putpalette(_PALETTE.tobytes())
    return image


def _with_gaps() -> np.ndarray:
    values = _DEEP.astype(np.float32)
    values[0, :3] = np.inf, np.nan, -np.inf
    return values


FILES = {
    "RGB": (encoded(_image(_RGB, "RGB"), "PNG"), _RGB),
    "grey": (encoded(_image(_GREY, "L"), "PNG"), _three(_GREY)),
    "grey and alpha": (encoded(_image(np.dstack([_GREY, _ALPHA]), "LA"), "PNG"), _three(_GREY)),
    "RGBA": (encoded(_image(np.dstack([_RGB, _ALPHA]), "RGBA"), "PNG"), _RGB),
    "palette": (encoded(_indexed(), "PNG"), _PALETTE[_GREY]),
    "palette, one transparent": (encoded(_indexed(), "PNG", transparency=3), _PALETTE[_GREY]),
    "palette, alpha by entry": (encoded(_indexed(), "PNG", transparency=bytes(range(256))), _PALETTE[_GREY]),
    "1 bit": (encoded(Image.fromarray(_GREY > 99), "PNG"), _three(np.where(_GREY > 99, 255, 0))),
    "CMYK": (encoded(_image(_INKS, "CMYK"), "TIFF"), (255.0 - _INKS[..., :3]) * (255 - _INKS[..., 3:]) / 255),
    "16 bits": (encoded(_image(_DEEP, "I;16"), "PNG"), _three(_DEEP // 257)),
    "16 bits, dark": (encoded(_image(_DEEP // 300, "I;16"), "PNG"), _three(_DEEP // 300 // 257)),
    "16 bits, big endian": (encoded(_image(_DEEP.astype(">u2"), "I;16B"), "TIFF"), _three(_DEEP // 257)),
    "32 bits to 65535": (encoded(_image(_DEEP.astype(np.int32), "I"), "TIFF"), _three(_DEEP // 257)),
    "32 bits to 255": (encoded(_image(_GREY.astype(np.int32), "I"), "TIFF"), _three(_GREY)),
    "32 bits, out of range": (
        encoded(_image(_DEEP.astype(np.int32) * 4 - 65535, "I"), "TIFF"),
        _three(np.clip(_DEEP.astype(np.int64) * 4 - 65535, 0, 65535) // 257),
    ),
    "float to 65535": (encoded(_image(_DEEP.astype(np.float32), "F"), "TIFF"), _three(_DEEP // 257)),
    "float to 255": (encoded(_image(_GREY.astype(np.float32), "F"), "TIFF"), _three(_GREY)),
    "float to 1": (encoded(_image(_DEEP.astype(np.float32) / 65535, "F"), "TIFF"), _three(_DEEP // 257)),
    "float with gaps": (encoded(_image(_with_gaps(), "F"), "TIFF"), _three(_DEEP // 257 * (_DEEP > 600))),
}


def write_shards(root, *groups):
    """Shards that the webdataset library wrote, one for each group of picture numbers."""
    for shard, group in enumerate(groups):
        with webdataset.TarWriter(str(root / f"shard-{shard:04d}.tar")) as writer:
            for number in group:
                writer.write(
                    {"__key__": f"n/{number:03d}", "png": png(number), "cls": str(number % 3).encode(), "json": b"{}"}
                )
    return root


def birds(folder: Path) -> Path:
    """A small labelled pack: 40 training and 20 test images of four classes."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(60)]
    return write_parquet(
        folder / "birds.parquet",
        image=[encoded(picture, "PNG") for picture in pictures],
        label=[k % 4 for k in range(60)],
        split=["train", "train", "test"] * 20,
    )
