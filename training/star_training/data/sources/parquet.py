"""Parquet files with a column of encoded images: star-zoo's packs, and files written by Hugging Face `datasets`.

The encoded images of a split are held in memory as one Arrow table, which forked workers share.
Use tar shards or a folder for data sets larger than memory.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..contents import fingerprint, of_files
from ..split_names import choose_split
from .base import DataError, Inventory
from .columns import IMAGES, LABELS, choose, plain
from .raw import as_targets, number_names, whole_floats

_MOST_CLASSES = 1_000_000  # of named classes; larger labels are ids or damage


@dataclass(frozen=True)
class ParquetImages:
    """The rows of one split; see `open_parquet`."""

    files: tuple[Path, ...]
    images: Any  # pyarrow.ChunkedArray of bytes, null if a row has only a path
    paths: Any  # pyarrow.ChunkedArray of str, or None
    places: np.ndarray  # (N, 2) int64: number of the file, row in it
    fingerprint: str
    classes: tuple[str, ...] | None
    targets: Tensor | None
    inventory: Inventory

    def __len__(self) -> int:
        return len(self.places)

    def encoded(self, index: int) -> bytes | Path:
        data = self.images[index].as_py()
        path = self.paths[index].as_py() if data is None and self.paths is not None else None
        return self.files[self.places[index, 0]].parent / path if path else data or b""

    def describe(self, index: int) -> str:
        file, row = self.places[index]
        return f"row {row} of {self.files[file].name}"


def open_parquet(groups: Mapping[str, Sequence[Path]], split: str) -> ParquetImages:
    """Opens one split of the Parquet files in `groups`, which maps splits to files. Raises DataError.

    Columns: `image` (bytes, or Hugging Face's struct of bytes and path), optionally `label`, `label_name`, `split`, or
    their other usual names in `columns`. A `split` column takes precedence over the grouping of the files.
    """
    files = sorted(file for group in groups.values() for file in group)
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(f"reading {_named(files)} needs pyarrow: pip install 'star-zoo[train]'.") from error
    try:
        return _read(groups, files, split)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")  # Arrow's messages have several lines
        raise DataError(f"can't read {_named(files)} as Parquet: {reason}. Copy or write it again.") from error


def _read(groups: Mapping[str, Sequence[Path]], files: Sequence[Path], split: str) -> ParquetImages:
    columns, notes = _columns(files)
    left_out: tuple[str, ...] = ()
    if "split" in columns:
        counts = _counts(files, columns["split"])
        rows = choose_split(split, [name for name in counts if name is not None], _named(files))
        used = files
        if missing := counts.pop(None, 0):
            left_out = (f"{missing:,} row{'s' * (missing > 1)} without a split",)
    else:
        counts = Counter({name: sum(map(_length, group)) for name, group in groups.items()})
        used, rows = groups[choose_split(split, groups, _named(files))], None
    table, places = _rows(used, columns, rows)
    images, paths = _bytes_and_paths(table["image"], used)
    targets, classes, why = _labels(table, files, columns)
    read = [*used, *_named_by_rows(used, images, paths, places)]
    parts = [file.name for file in used], rows, len(table), of_files(read)
    fingerprinted = fingerprint("parquet", *parts, classes=classes, targets=targets)
    notes += tuple(filter(None, [whole_floats(targets)]))
    inventory = Inventory({str(name): count for name, count in counts.items()}, notes, left_out, why)
    return ParquetImages(tuple(used), images, paths, places, fingerprinted, classes, targets, inventory)


def _named(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _columns(files: Sequence[Path]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the names of the existing columns among `image`, `label`, `label_name`, `split`, and notes on them."""
    from pyarrow.parquet import read_schema

    names = [read_schema(file).names for file in files]
    found = [_roles(of_file) for of_file in names]
    for file, of_file, columns in zip(files, names, found, strict=True):
        if "image" not in columns:
            others = ", ".join(of_file)
            raise DataError(f"{file} has no column 'image', only {others}: rename the one that holds the images.")
        if columns != found[0]:
            both = f"{list(columns.values())} but {files[0]} has {list(found[0].values())}"
            raise DataError(f"{file} has columns {both}: they must agree.")
    notes = [choose(of_role, names[0])[1] for of_role in (IMAGES, LABELS)]
    return found[0], tuple(filter(None, notes))


def _roles(names: Sequence[str]) -> dict[str, str]:
    known = {"image": IMAGES, "label": LABELS, "label_name": ("label_name",), "split": ("split",)}
    return {role: name for role, usual in known.items() if (name := choose(usual, names)[0])}


def _counts(files: Sequence[Path], column: str) -> Counter[str | None]:
    """Returns the sorted values of a text column over the rows of all splits, with the count of each."""
    from pyarrow.parquet import ParquetFile

    counts: Counter[str | None] = Counter()
    for path in files:
        with ParquetFile(path) as file:
            values = plain(file.read([column])[column]).cast("string")
            for entry in values.value_counts().to_pylist():
                counts[entry["values"]] += entry["counts"]
    return Counter({name: counts[name] for name in sorted(counts, key=lambda name: (name is None, name))})


def _distinct(files: Sequence[Path], column: str) -> tuple[str, ...]:
    return tuple(name for name in _counts(files, column) if name is not None)


def _length(file: Path) -> int:
    from pyarrow.parquet import read_metadata

    return read_metadata(file).num_rows


def _rows(files: Sequence[Path], columns: Mapping[str, str], split: str | None) -> tuple[Any, np.ndarray]:
    """Returns the rows of a split (all if None) as a pyarrow.Table, and their places (N, 2) int64.

    The table's columns are named by role and have basic types. Row groups are read one by one, so that rows of other
    splits take no memory.
    """
    import pyarrow
    import pyarrow.compute
    from pyarrow.parquet import ParquetFile

    own = list(columns.values())

    def ours(table: Any) -> Any:
        return pyarrow.table({role: plain(table[name]) for role, name in columns.items()})

    tables, places = [], []
    for number, path in enumerate(files):
        with ParquetFile(path) as file:
            tables.append(ours(file.schema_arrow.empty_table()))
            start = 0
            for group in range(file.num_row_groups):
                # counts the rows that were read, because a damaged file may state any number
                if split is None:
                    tables.append(ours(file.read_row_group(group, own)))
                    count = len(tables[-1])
                    rows = start + np.arange(count)
                else:
                    values = plain(file.read_row_group(group, [columns["split"]])[columns["split"]]).cast("string")
                    keep = pyarrow.compute.equal(values, split).fill_null(False)
                    count = len(keep)
                    rows = start + np.flatnonzero(keep.to_numpy())
                    if len(rows):
                        tables.append(ours(file.read_row_group(group, own)).filter(keep))
                places.append(np.stack([np.full_like(rows, number), rows], axis=1))
                start += count
    return pyarrow.concat_tables(tables), np.concatenate([np.empty((0, 2), np.int64), *places])


def _bytes_and_paths(column: Any, files: Sequence[Path]) -> tuple[Any, Any]:
    from pyarrow import types

    if types.is_struct(column.type):
        fields = dict(zip((field.name for field in column.type), map(plain, column.flatten()), strict=True))
        images, paths = fields.get("bytes"), fields.get("path")
    else:
        images, paths = column, None
    if images is None or not (types.is_binary(images.type) or types.is_large_binary(images.type)):
        raise DataError(
            f"column 'image' of {_named(files)} is {column.type}; expected binary (the encoded file) or Hugging Face's "
            "struct<bytes: binary, path: string>."
        )
    return images, paths


def _named_by_rows(files: Sequence[Path], images: Any, paths: Any, places: np.ndarray) -> list[Path]:
    """Returns the files that hold the images of rows without bytes."""
    if paths is None or not images.null_count:
        return []
    bare = np.flatnonzero(images.is_null().to_numpy())
    named = zip(places[bare, 0], paths.take(bare).to_pylist(), strict=True)
    return [files[number].parent / path for number, path in named if path]


def _labels(
    table: Any, files: Sequence[Path], columns: Mapping[str, str]
) -> tuple[Tensor | None, tuple[str, ...] | None, str]:
    """Returns (targets, classes, reason for no labels) of the label columns; text is numbered over all splits."""
    from pyarrow import types

    text = next((name for name in ("label", "label_name") if name in table.column_names), None)
    if text is None:
        return None, None, "there is no column 'label'"
    if table[text].null_count:
        first = table[text].is_null().index(True).as_py()
        how = f"no {columns[text]}, the first is image {first}"
        return None, None, f"{table[text].null_count:,} of {len(table):,} rows have {how}"
    kind = table.schema.field(text).type
    if types.is_string(kind) or types.is_large_string(kind):
        classes = _distinct(files, columns[text])
        return number_names(table[text].to_pylist(), classes), classes, ""
    targets, why = as_targets(table[text].to_pylist())
    if targets is None or targets.is_floating_point():
        return targets, None, why
    return *_numbered(targets, table, files, columns), ""


def _numbered(
    targets: Tensor, table: Any, files: Sequence[Path], columns: Mapping[str, str]
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Returns (targets, classes) of integer classes, with their names from the metadata or from `label_name`."""
    stated = [_stated_names(file, columns["label"]) for file in files]
    if any(names != stated[0] for names in stated):  # separate data sets, whose labels mean different classes
        if "label_name" not in table.column_names or table["label_name"].null_count:
            raise DataError(f"{_named(files)} number their classes differently; give each row a label_name.")
        classes = _distinct(files, columns["label_name"])
        return number_names(table["label_name"].to_pylist(), classes), classes
    names = stated[0] if stated[0] is not None else _names_of_rows(table)
    if not names:
        return targets, None
    count = max(int(targets.max()) if len(targets) else 0, *names) + 1
    if count > _MOST_CLASSES:
        raise DataError(
            f"column {columns['label']!r} of {_named(files)} has labels up to {count - 1}: number the classes from 0, "
            "without gaps."
        )
    return targets, tuple(names.get(label, str(label)) for label in range(count))


def _stated_names(file: Path, label: str) -> dict[int, str] | None:
    """Returns names by label from the schema's `classes` or Hugging Face's ClassLabel; None if both are missing."""
    from pyarrow.parquet import read_schema

    metadata = read_schema(file).metadata or {}
    try:
        names = json.loads(metadata.get(b"classes", b"null"))
        if names is None and b"huggingface" in metadata:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][label].get("names")
        if names is None:
            return None
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        return {int(number): str(name) for number, name in pairs}
    except (ValueError, KeyError, AttributeError) as error:
        rule = "expected a JSON list of names or object from label to name"
        raise DataError(f"can't read the class names in the metadata of {file} ({error}); {rule}.") from error


def _names_of_rows(table: Any) -> dict[int, str]:
    """Returns names by label from the rows' `label_name`; {} without that column."""
    if "label_name" not in table.column_names:
        return {}
    rows = zip(table["label"].to_pylist(), table["label_name"].to_pylist(), strict=True)
    return {int(label): str(name) for label, name in rows}
