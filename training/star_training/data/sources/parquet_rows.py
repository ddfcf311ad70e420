"""The rows of Parquet files: columns of one split, and the encoded images, which are read at the first access."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from star_catalog.machine import memory

from ..contents import state
from ..decode import UndecodableImage
from .base import DataError
from .columns import plain
from .raw import inside

_ROWS = 512  # read at once
_BUFFER = 2**16  # bytes read at once where a few rows of a row group are read


class Encoded:
    """The encoded images in the rows of a split, read at the first access."""

    def __init__(self, files: Sequence[Path], column: str, split: tuple[str, str] | None):
        self._files, self._column, self.split = files, column, split
        self._state = state(files)

    @functools.cached_property
    def rows(self) -> tuple[Any, Any]:
        """Bytes (a pyarrow.ChunkedArray, null if a row has only a path), and paths or None.

        Raises DataError if the files can't be read, or have changed since the data set was opened.
        """
        with readable(self._files):
            table, _ = read_rows(self._files, {"image": self._column}, self.split)
        if state(self._files) != self._state:
            raise DataError(f"{named(self._files)} changed while it was in use; start again.")
        return _bytes_and_paths(table["image"], self._files)

    def bare(self, places: np.ndarray) -> list[Path]:
        """Returns the files that hold the images of rows without bytes; places (N, 2) as in `ParquetImages`."""
        if all(_holds_all_bytes(file, self._column) for file in self._files):
            return []
        images, paths = self.rows
        if paths is None or not images.null_count:
            return []
        bare = np.flatnonzero(as_bools(images.is_null()))
        pairs = zip(places[bare, 0], paths.take(bare).to_pylist(), strict=True)
        return [found for number, path in pairs if path and (found := inside(path, self._files[number].parent))]


def beside(file: Path, path: str) -> Path:
    """Returns the image file that a row of a Parquet file names. Raises UndecodableImage unless it may be read.

    It must be a regular file in the folder of the Parquet file or below, because the path may be anyone's.
    """
    found = inside(path, file.parent)
    if found is None:
        raise UndecodableImage(f"{path!r} is no file below {file.parent}")
    return found


def check_images(file: Path, column: str) -> None:
    """Raises DataError unless a column may hold images, by its type."""
    from pyarrow.parquet import read_schema

    _bytes_and_paths(plain(_empty(read_schema(file))[column]), [file])


def holds_images(kind: Any) -> bool:
    """Returns whether a column of a type may hold encoded images: binary, or a struct of bytes and path."""
    import pyarrow
    from pyarrow import types

    kind = plain(pyarrow.chunked_array([], kind)).type
    return (types.is_struct(kind) and kind.get_field_index("bytes") >= 0) or _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _bytes_and_paths(column: Any, files: Sequence[Path]) -> tuple[Any, Any]:
    import pyarrow
    from pyarrow import types

    if types.is_struct(column.type):
        fields = dict(zip((field.name for field in column.type), map(plain, column.flatten()), strict=True))
        images, paths = fields.get("bytes"), fields.get("path")
    elif types.is_string(column.type) or types.is_large_string(column.type):
        images, paths = pyarrow.chunked_array([pyarrow.nulls(len(column), pyarrow.binary())]), column
    else:
        images, paths = column, None
    if images is None or not _is_binary(images.type):
        raise DataError(
            f"the images' column of {named(files)} is {column.type}; expected binary (the encoded file), Hugging "
            "Face's struct<bytes: binary, path: string>, or paths of files in the same folder."
        )
    return images, paths


def _holds_all_bytes(file: Path, column: str) -> bool:
    """Returns whether every row of a file has its image's bytes in it, according to the file's statistics."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file, buffer_size=_BUFFER) as opened:
        if not holds_images(opened.schema_arrow.field(column).type):
            return False  # paths
        names = [opened.schema.column(k).path for k in range(len(opened.schema))]
        leaves = [k for k, name in enumerate(names) if name in (column, f"{column}.bytes")]
        for group in range(opened.num_row_groups):
            # Arrow ends the process if the description of a column is damaged, but raises if a row is read first
            if not next(opened.iter_batches(1, row_groups=[group], columns=[column]), None):
                return False
            chunks = [opened.metadata.row_group(group).column(k) for k in leaves]
            if any(chunk.physical_type != "BYTE_ARRAY" for chunk in chunks):  # its statistics would end the process
                return False
            stored = [chunk.statistics for chunk in chunks]
            if not all(s and s.has_null_count and not s.null_count for s in stored):
                return False
    return len(leaves) == 1


def read_rows(
    files: Sequence[Path], columns: Mapping[str, str], split: tuple[str, str] | None
) -> tuple[Any, np.ndarray]:
    """Returns the rows of a split (all if None) as a pyarrow.Table, and their places (N, 2) int64.

    `split` is the column and its value. The table's columns are named by role and have basic types. Row groups are read
    one by one, so that rows of other splits take no memory. Raises DataError for rows that need more than half of this
    machine's memory.
    """
    import pyarrow
    import pyarrow.compute
    from pyarrow.parquet import ParquetFile

    tables, places, left = [], [], memory() // 2
    for number, path in enumerate(files):
        with ParquetFile(path) as file:
            start = 0
            tables.append(_by_role(_empty(file.schema_arrow), columns))
            for group in range(file.num_row_groups):
                # counts the rows that were read, because a damaged file may state any number
                if split is None:
                    tables.append(_group(file, group, columns, left))
                    count = len(tables[-1])
                    rows = start + np.arange(count)
                else:
                    column, name = split
                    values = _group(file, group, {"split": column}, left)["split"].cast("string")
                    keep = pyarrow.compute.is_in(values, value_set=_texts(name))  # False for nulls
                    count = len(keep)
                    rows = start + np.flatnonzero(as_bools(keep))
                    if len(rows):
                        tables.append(_group(file, group, columns, left).filter(keep))
                left -= tables[-1].nbytes if len(rows) else 0
                places.append(np.stack([np.full_like(rows, number), rows], axis=1))
                start += count
    return pyarrow.concat_tables(tables), np.concatenate([np.empty((0, 2), np.int64), *places])


def _group(file: Any, group: int, columns: Mapping[str, str], most: int) -> Any:
    """Returns columns of a row group, by role and in basic types. Raises DataError above so many bytes.

    A row group of any size in the file may hold terabytes, because equal values are stored once.
    """
    import pyarrow

    tables = [_by_role(_empty(file.schema_arrow), columns)]
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(columns.values())):
        tables.append(_by_role(pyarrow.Table.from_batches([batch]), columns))
        most -= tables[-1].nbytes
        if most < 0:
            raise DataError(
                "the rows of the Parquet files need more memory than half of this machine's; write tar shards or a "
                "folder of images instead."
            )
    return pyarrow.concat_tables(tables)


def _by_role(table: Any, columns: Mapping[str, str]) -> Any:
    import pyarrow

    return pyarrow.Table.from_arrays([plain(table[name]) for name in columns.values()], names=list(columns))


def _empty(schema: Any) -> Any:
    """Returns a pyarrow.Table without rows; `schema.empty_table()` imports pandas, which takes a third of a second."""
    import pyarrow

    return pyarrow.Table.from_batches([], schema)


def _texts(text: str) -> Any:
    """Returns a pyarrow.StringArray of one text; `pyarrow.array` and `pyarrow.scalar` import pandas."""
    import pyarrow

    content = text.encode()
    offsets = np.array([0, len(content)], np.int32)
    return pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(offsets), pyarrow.py_buffer(content))


def as_bools(column: Any) -> np.ndarray:
    """Returns a pyarrow.ChunkedArray of booleans without nulls; its own `to_numpy` imports pandas."""
    return np.from_dlpack(column.cast("uint8").combine_chunks()).astype(bool)


@contextlib.contextmanager
def readable(files: Sequence[Path]) -> Iterator[None]:
    """Turns Arrow's errors in reading some files into a DataError."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(f"reading {named(files)} needs pyarrow: pip install 'star-zoo[train]'.") from error
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")  # Arrow's messages have several lines
        raise DataError(f"can't read {named(files)} as Parquet: {reason}. Copy or write it again.") from error


def named(files: Sequence[Path]) -> str:
    """Returns the files' names for messages."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
