"""Embeddings of many images in one file, written batch by batch: Parquet, or an array in NumPy's format.

Letters: B images, N in all, D features or dimensions of an embedding.
"""

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from star_catalog.files import replacing
from star_catalog.writing import check_file

from ..data.places import check_outside

SUFFIXES = (".parquet", ".npy")
COLUMNS = ("file", "split", "label", "class")  # beside the vectors
_GROUP = 2**24  # bytes of a row group, which is the part of a Parquet file that is in memory


class Rows(NamedTuple):
    """Consecutive images of one split."""

    files: list[str]  # the origin of each image: a path, or "row 17 of cifar10.parquet"
    split: str
    targets: Tensor | None  # (B,) int64 classes, (B, K) float32 numbers, or None without labels
    classes: tuple[str, ...] | None  # names by class
    vectors: dict[str, Tensor]  # features and embeddings by name: (B, D) float32

    def columns(self) -> dict[str, list[Any]]:
        """Returns what identifies and labels each image, by column."""
        labels: list[Any] = [None] * len(self.files) if self.targets is None else self.targets.tolist()
        named = self.classes and self.targets is not None and not self.targets.is_floating_point()
        names = [_printed(self.classes[label]) for label in labels] if self.classes and named else [None] * len(labels)
        files = [_printed(file) for file in self.files]
        return dict(zip(COLUMNS, (files, [self.split] * len(files), labels, names), strict=True))


Write = Callable[[Rows], None]


def _printed(name: str) -> str:
    """Returns a name with the bytes escaped that aren't UTF-8, which no file format here can hold."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_place(path: Path, data: str) -> None:
    """Raises ValueError for a file of another format, for one that is the data or lies in them, and for one that would
    replace a .csv file of other contents; OSError for one that can't be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; pass a file that ends in {' or '.join(SUFFIXES)}")
    listed = path.with_suffix(".csv")
    for file in (path, listed) if path.suffix.lower() == ".npy" else (path,):
        check_outside(file, data)
        check_file(file)
    if path.suffix.lower() == ".npy" and listed.exists() and not _is_list(listed):
        raise ValueError(f"{listed}, which would list the images, holds something else; pass another file, or move it")


def _is_list(path: Path) -> bool:
    """Returns whether a CSV file begins as those that are written beside arrays."""
    with path.open("rb") as file:
        return file.readline().decode("utf-8", "replace").strip() == ",".join(COLUMNS)


@contextlib.contextmanager
def embedding_file(path: Path, about: dict[str, str], numbers: bool) -> Iterator[Write]:
    """Yields the function that adds rows to the file, which replaces `path` at the end, or not at all on any error.

    A Parquet file has the columns of `Rows.columns` and one for each vector, with `about` in its metadata. A .npy file
    is the array of the features, (N, D) float32; the other columns are in a CSV file beside it. `numbers` is whether
    labels are numbers to predict, in any split.
    """
    with _parquet(path, about, numbers) if path.suffix.lower() == ".parquet" else _npy(path) as write:
        yield write


@contextlib.contextmanager
def _parquet(path: Path, about: dict[str, str], numbers: bool) -> Iterator[Write]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    label = pyarrow.list_(pyarrow.float32()) if numbers else pyarrow.int64()
    types = dict.fromkeys(COLUMNS, pyarrow.string()) | {"label": label}
    held: list[Any] = []
    writer: Any = None

    def flush() -> None:
        writer.write_table(pyarrow.concat_tables(held).combine_chunks())
        held.clear()

    def write(rows: Rows) -> None:
        nonlocal writer
        cells = rows.columns()
        if numbers:
            cells["label"] = [[cell] if isinstance(cell, int) else cell for cell in cells["label"]]
        columns = {name: pyarrow.array(values, types[name]) for name, values in cells.items()}
        for name, vectors in rows.vectors.items():
            flat = pyarrow.array(vectors.contiguous().numpy().ravel())
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = pyarrow.table(columns)
        if writer is None:
            writer = files.enter_context(
                ParquetWriter(part, table.schema.with_metadata(about), use_dictionary=["split", "class"])
            )
        held.append(table.cast(writer.schema.remove_metadata()))
        if sum(table.nbytes for table in held) >= _GROUP:
            flush()

    with replacing(path) as part, contextlib.ExitStack() as files:
        yield write
        if held:
            flush()


@contextlib.contextmanager
def _npy(path: Path) -> Iterator[Write]:
    count, width = 0, 0

    def header() -> None:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(array, shape)

    def write(rows: Rows) -> None:
        nonlocal count, width
        if not count:
            width = rows.vectors["features"].shape[1]
            header()
        columns = rows.columns()
        if not count:
            table.writerow(columns)
        array.write(rows.vectors["features"].contiguous().numpy().astype("<f4", copy=False).tobytes())
        table.writerows(zip(*(map(_text, column) for column in columns.values()), strict=True))
        count += len(rows.files)

    with (
        replacing(path.with_suffix(".csv")) as listed,
        replacing(path) as part,
        part.open("wb") as array,
        listed.open("w", encoding="utf-8", newline="") as lines,
    ):
        table = csv.writer(lines)
        yield write
        array.seek(0)
        header()  # NumPy pads it, so that the number of rows may change


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
