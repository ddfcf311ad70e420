"""Parquet files with a column of encoded images: star-zoo's packs, and files written by Hugging Face `datasets`.

The encoded images of a split are held in memory as one Arrow table, which forked workers share. They are loaded at the
first access to one, or when the data set is opened if rows hold paths. Otherwise opening loads labels and splits alone,
and reads the files once for their fingerprint. Use tar shards or a folder for data sets larger than memory.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contents import fingerprint, of_files
from ..split_names import choose_split, of_split
from .base import DataError, Inventory
from .columns import IMAGES, LABELS, PATHS, check_given, choose
from .layout import named as listed
from .parquet_rows import Encoded, as_bools, beside, check_images, holds_images, named, read_rows, readable
from .raw import are_ids, as_targets, number_names, whole_floats


@dataclass(frozen=True)
class ParquetImages:
    """The rows of one split; see `open_parquet`."""

    files: tuple[Path, ...]
    images: Encoded
    places: np.ndarray  # (N, 2) int64: number of the file, row in it
    fingerprint: str
    classes: tuple[str, ...] | None
    targets: Tensor | None
    inventory: Inventory

    def __len__(self) -> int:
        return len(self.places)

    def encoded(self, index: int) -> bytes | Path:
        images, paths = self.images.rows
        data = images[index].as_py()
        path = paths[index].as_py() if data is None and paths is not None else None
        return beside(self.files[self.places[index, 0]], path) if path else data or b""

    def describe(self, index: int) -> str:
        return _row(self.files, self.places[index])


def open_parquet(groups: Mapping[str, Sequence[Path]], split: str, given: Mapping[str, str]) -> ParquetImages:
    """Opens one split of the Parquet files in `groups`, which maps splits to files. Raises DataError.

    Columns: `image` (bytes, Hugging Face's struct of bytes and path, or paths of files below the Parquet file's
    folder), optionally `label`, `label_name`, `split`; those `given` by role, or else with a usual name. A `split`
    column takes precedence over the grouping of the files.
    """
    files = sorted(file for group in groups.values() for file in group)
    with readable(files):
        return _read(groups, files, split, given)


def _read(
    groups: Mapping[str, Sequence[Path]], files: Sequence[Path], split: str, given: Mapping[str, str]
) -> ParquetImages:
    columns, notes = _columns(files, given)
    left_out: tuple[str, ...] = ()
    if "split" in columns:
        counts, without = _splits(files, columns["split"])
        chosen = rows = choose_split(split, counts, named(files))
        used = files
        if len(without):
            first = [_row(files, place) for place in without[:3]]
            left_out = (f"{listed(first, len(without))} (without a split)",)
    else:
        counts = Counter({name: sum(map(_length, group)) for name, group in groups.items()})
        chosen = choose_split(split, groups, named(files))
        used, rows = groups[chosen], None
    images = Encoded(used, columns["image"], None if rows is None else (columns["split"], rows))
    check_images(used[0], columns["image"])
    # the rows that are read are counted, because a damaged file may state any number
    beside = {role: name for role, name in columns.items() if role != "image"} or columns
    table, places = read_rows(used, beside, images.split)
    targets, classes, why = _labels(table, files, columns, of_split(chosen, counts))
    read = [*used, *images.bare(places)]
    parts = [file.name for file in used], rows, len(table), of_files(read)
    fingerprinted = fingerprint("parquet", *parts, classes=classes, targets=targets)
    notes += tuple(filter(None, [whole_floats(targets)]))
    inventory = Inventory({str(name): count for name, count in counts.items()}, notes, left_out, why)
    return ParquetImages(tuple(used), images, places, fingerprinted, classes, targets, inventory)


def _columns(files: Sequence[Path], given: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the names of the existing columns among `image`, `label`, `label_name`, `split`, and notes on them."""
    from pyarrow.parquet import read_schema

    found = []
    for file in files:
        schema = read_schema(file)
        check_given(given, schema.names, file)
        columns, notes = _roles(schema, given)
        if "image" not in columns:
            raise DataError(
                f"{file} has no column 'image', only {', '.join(schema.names)}: name the one that holds the images, "
                f"e.g. {file}:image={schema.names[0] if schema.names else 'COLUMN'}."
            )
        found.append((columns, notes))
        if columns != found[0][0]:
            both = f"{list(columns.values())} but {files[0]} has {list(found[0][0].values())}"
            raise DataError(f"{file} has columns {both}: they must agree.")
    return found[0]


def _roles(schema: Any, given: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the columns by role, and notes on those that were chosen.

    Without a usual name, the images are the only column that may hold some by its type, or else a column of paths.
    """
    usual = {"image": IMAGES, "label": LABELS, "label_name": ("label_name",), "split": ("split",)}
    found = {role: choose(names, schema.names) for role, names in usual.items()}
    if "label" in given and given["label"] != found["label"][0]:
        found["label_name"] = None, ""  # the names of other labels
    if found["image"][0] is None:
        holding = [name for name in schema.names if holds_images(schema.field(name).type)]
        name = holding[0] if len(holding) == 1 else choose(PATHS, schema.names)[0]
        found["image"] = name, f"column {name} is taken for image"
    chosen = {role: name for role, (name, _) in found.items() if name} | dict(given)
    return chosen, tuple(found[role][1] for role in ("image", "label") if found[role][1] and role not in given)


def _splits(files: Sequence[Path], column: str) -> tuple[Counter[str], np.ndarray]:
    """Returns the sorted values of a text column over all rows with the count of each, and the places of the rest."""
    table, places = read_rows(files, {"value": column}, None)
    values = table["value"].cast("string")
    counts = {entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()}
    counts.pop(None, None)
    return Counter({name: counts[name] for name in sorted(counts)}), places[as_bools(values.is_null())]


def _row(files: Sequence[Path], place: np.ndarray) -> str:
    return f"row {place[1]} of {files[place[0]].name}"


def _distinct(files: Sequence[Path], column: str) -> tuple[str, ...]:
    return tuple(_splits(files, column)[0])


def _length(file: Path) -> int:
    from pyarrow.parquet import read_metadata

    return read_metadata(file).num_rows


def _labels(
    table: Any, files: Sequence[Path], columns: Mapping[str, str], of: str
) -> tuple[Tensor | None, tuple[str, ...] | None, str]:
    """Returns (targets, classes, reason for no labels) of the label columns; text is numbered over all splits.

    `of` names the split, as `of_split` does.
    """
    from pyarrow import types

    text = next((name for name in ("label", "label_name") if name in table.column_names), None)
    if text is None:
        return None, None, "there is no column 'label'"
    if table[text].null_count:
        first = table[text].is_null().index(True).as_py()
        how = f"no {columns[text]}, the first is image {first}"
        return None, None, f"{table[text].null_count:,} of {len(table):,} rows{of} have {how}"
    kind = table.schema.field(text).type
    if types.is_string(kind) or types.is_large_string(kind):
        classes = _distinct(files, columns[text])
        return number_names(table[text].to_pylist(), classes), classes, ""
    targets, why = as_targets(table[text].to_pylist(), named(files), of)
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
            raise DataError(f"{named(files)} number their classes differently; give each row a label_name.")
        classes = _distinct(files, columns["label_name"])
        return number_names(table["label_name"].to_pylist(), classes), classes
    names = stated[0] if stated[0] is not None else _names_of_rows(table)
    if not names:
        return targets, None
    ids = _ids(files, columns["label"])
    largest = max([*ids, *names])
    if are_ids(largest, len(ids), _dense(names)):
        classes = tuple(names.get(label, str(label)) for label in ids)
        return torch.searchsorted(torch.tensor(ids), targets), classes
    return targets, tuple(names.get(label, str(label)) for label in range(largest + 1))


def _ids(files: Sequence[Path], column: str) -> list[int]:
    """Returns the sorted labels of the rows of all splits, each once."""
    labels = read_rows(files, {"label": column}, None)[0]["label"].unique().to_pylist()
    return sorted(int(label) for label in labels if label is not None)


def _dense(names: Mapping[int, str]) -> int:
    """Returns how many numbers from 0 have a name."""
    return next(number for number in range(len(names) + 1) if number not in names)


def _stated_names(file: Path, label: str) -> dict[int, str] | None:
    """Returns names by label from the schema's `classes` or Hugging Face's ClassLabel; None if both are missing."""
    from pyarrow.parquet import read_schema

    schema = read_schema(file)
    metadata, usual = schema.metadata or {}, choose(LABELS, schema.names)[0] == label
    try:
        names = json.loads(metadata.get(b"classes", b"null")) if usual else None
        if names is None and b"huggingface" in metadata:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][label].get("names")
        if names is None:
            return None
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        return {int(number): str(name) for number, name in pairs}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        rule = "expected a JSON list of names or object from label to name"
        raise DataError(f"can't read the class names in the metadata of {file} ({error}); {rule}.") from error


def _names_of_rows(table: Any) -> dict[int, str]:
    """Returns names by label from the rows' `label_name`; {} without that column."""
    if "label_name" not in table.column_names:
        return {}
    rows = zip(table["label"].to_pylist(), table["label_name"].to_pylist(), strict=True)
    return {int(label): str(name) for label, name in rows if name is not None}
