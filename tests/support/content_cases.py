"""One small labelled data set in every form that `open_source` and `open_stream` read from a disk."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow
import pyarrow.parquet

from data_cases import png, write_folder, write_tar
from star_training.data import decode, open_source
from star_training.data.sources.base import Source
from star_training.data.streaming.stream import open_stream


class Row(NamedTuple):
    """An image and its label, 0 or 1."""

    image: bytes
    label: int


def rows(count: int = 8) -> list[Row]:
    return [Row(png(100 + k), k % 2) for k in range(count)]


def _by_class(given: Sequence[Row]) -> dict[str, bytes]:
    files = {}
    for label in (0, 1):
        members = [row.image for row in given if row.label == label]
        files |= {f"{'ab'[label]}/{k}.png": image for k, image in enumerate(members)}
    return files


def _folder(root: Path, given: Sequence[Row]) -> str:
    return str(write_folder(root, _by_class(given)))


def _table(root: Path, given: Sequence[Row], images: list) -> str:
    """A Parquet file that takes as many bytes whatever the order of its rows."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": [row.label for row in given]})
    root.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, root / "x.parquet", compression="none", use_dictionary=False)
    return str(root / "x.parquet")


def _parquet(root: Path, given: Sequence[Row]) -> str:
    return _table(root, given, [{"bytes": row.image, "path": None} for row in given])


def _paths(root: Path, given: Sequence[Row]) -> str:
    """A Parquet file whose rows name the files of their images."""
    write_folder(root, {f"{k}.png": row.image for k, row in enumerate(given)})
    return _table(root, given, [{"bytes": None, "path": f"{k}.png"} for k in range(len(given))])


def _tar(root: Path, given: Sequence[Row]) -> str:
    members = {}
    for k, row in enumerate(given):
        members |= {f"{k:03d}.png": row.image, f"{k:03d}.cls": b"%d" % row.label}
    return str(write_tar(root / "x.tar", members))


def _stream(root: Path, given: Sequence[Row]) -> str:
    return f"stream:{_tar(root, given)}"


def _saved(root: Path, given: Sequence[Row]) -> str:
    made = {"image": [{"bytes": row.image, "path": None} for row in given], "label": [row.label for row in given]}
    datasets.Dataset.from_dict(made).cast_column("image", datasets.Image()).save_to_disk(root)
    return str(root)


def _listed(root: Path, given: Sequence[Row]) -> str:
    """A class of torchvision that lists its files."""
    files = {f"{split}/{name}": data for split in ("train", "valid", "test") for name, data in _by_class(given).items()}
    write_folder(root / "country211", files)
    return f"torchvision:Country211@{root}"


def _in_memory(root: Path, given: Sequence[Row]) -> str:
    """A class of torchvision that reads all images into memory."""
    pixels = b"".join(bytes([decode(row.image)[0, 0, 0]]) * 28 * 28 for row in given)
    labels, count = bytes(row.label for row in given), len(given).to_bytes(4, "big")
    side = (28).to_bytes(4, "big")
    files = {
        "images-idx3-ubyte": b"\0\0\x08\x03" + count + side * 2 + pixels,
        "labels-idx1-ubyte": b"\0\0\x08\x01" + count + labels,
    }
    write_folder(
        root / "MNIST/raw", {f"{split}-{name}": data for split in ("train", "t10k") for name, data in files.items()}
    )
    return f"torchvision:MNIST@{root}"


KINDS: dict[str, Callable[[Path, Sequence[Row]], str]] = {
    "folder": _folder,
    "parquet": _parquet,
    "parquet of paths": _paths,
    "tar": _tar,
    "stream": _stream,
    "saved": _saved,
    "torchvision, files": _listed,
    "torchvision, images in memory": _in_memory,
}


def opened(spec: str) -> Source:
    return open_stream(spec) if spec.startswith("stream:") else open_source(spec)


def overwrite(root: Path, other: Path) -> None:
    """Puts the bytes of the files in `other` into those in `root`, whose sizes and times stay."""
    for file in filter(Path.is_file, other.rglob("*")):
        target = root / file.relative_to(other)
        before = target.stat()
        assert before.st_size == file.stat().st_size, f"{file} is of another size"
        with target.open("r+b") as stream:
            stream.write(file.read_bytes())
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert target.stat().st_mtime_ns == before.st_mtime_ns
