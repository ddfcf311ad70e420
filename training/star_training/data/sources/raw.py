"""The interface of each kind of data set, `Raw`, and the rules that all kinds share: labels, subsets, channels."""

import hashlib
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..decode import As, Encoded, Picture, opened, undecodable
from .base import DataError, Inventory

_FEW, _GAPS = 1000, 10  # up to so many numbers, or so many for each class in use, labels are numbers of classes


class Raw(Protocol):
    """The images of one split, not decoded yet. Members without a docstring are as in `Source`."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def targets(self) -> Tensor | None: ...

    @property
    def inventory(self) -> Inventory: ...

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> Encoded:
        """Returns image `index` in a form that `decode` accepts. May raise any exception; see `load`."""

    def describe(self, index: int) -> str: ...


def picture(raw: Raw, index: int) -> Picture:
    """Returns image `index` with its size known. Raises `UndecodableImage` on any failure, even a missing file."""
    with undecodable():
        return opened(raw.encoded(index))


def load(raw: Raw, index: int) -> Tensor:
    """Returns image `index` decoded, (C, H, W); raises as `picture` does."""
    return picture(raw, index).shrunk(1)[0]


class Subset:
    """The images of `raw` at the given indices, as a `Raw`."""

    def __init__(self, raw: Raw, indices: Tensor):
        self._raw, self._indices = raw, indices
        self.fingerprint = digest([raw.fingerprint, indices.numpy().tobytes()])
        self.classes, self.inventory = raw.classes, raw.inventory
        self.targets = None if raw.targets is None else raw.targets[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def encoded(self, index: int) -> Encoded:
        return self._raw.encoded(int(self._indices[index]))

    def describe(self, index: int) -> str:
        return self._raw.describe(int(self._indices[index]))


def inside(path: str, *folders: Path) -> Path | None:
    """Returns the regular file that a data set names by its path, if it is in one of the folders or below, else None.

    Whoever wrote the data set may have named any file of this machine, e.g. a device without end, or a link to one. A
    relative path starts at the first folder.
    """
    allowed = [folder.resolve() for folder in folders]
    try:
        found = (allowed[0] / path).resolve()
        return found if found.is_file() and any(map(found.is_relative_to, allowed)) else None
    except (OSError, RuntimeError, ValueError):  # too long, a cycle of links, a null byte
        return None


class InChannels:
    """The images of `raw`, to be decoded to another number of channels than three, as a `Raw`."""

    def __init__(self, raw: Raw, channels: int):
        self._raw, self._channels = raw, channels
        self.fingerprint = digest([raw.fingerprint, "channels", channels])
        self.classes, self.targets, self.inventory = raw.classes, raw.targets, raw.inventory

    def __len__(self) -> int:
        return len(self._raw)

    def encoded(self, index: int) -> Encoded:
        encoded = self._raw.encoded(index)
        return encoded if isinstance(encoded, As) else As(encoded, self._channels)

    def describe(self, index: int) -> str:
        return self._raw.describe(index)


def in_channels(raw: Raw, channels: int) -> Raw:
    """Returns the images of `raw`, decoded to so many channels; their fingerprint is that of `raw` for three."""
    return raw if channels == 3 else InChannels(raw, channels)


def evenly_spaced(total: int, count: int) -> Tensor:
    """Returns at most `count` evenly spaced indices (n,) int64 in 0..total-1, fair to images sorted by class too."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()


def digest(parts: Iterable[object]) -> str:
    """Returns a short hex string that depends on the parts (bytes as they are, the rest by repr) and their order."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        sha.update(f"{len(data)}:".encode() + data)
    return sha.hexdigest()[:16]


def as_targets(labels: Any, where: str, of: str = "") -> tuple[Tensor | None, str]:
    """Returns numeric labels as `Source.targets`, or None and the reason why there are none.

    `where` names the data for errors, and `of` the split of the images, as `of_split` does.

    Integers are classes, and so are decimals (`decimal.Decimal`) if all are integral. Floats and rows of numbers are
    regression targets, even if integral. One label that is missing (None, NaN, a negative class), infinite or not
    a number leaves the whole data set unlabelled. Raises DataError if a class exceeds int64.
    """
    try:
        values = np.asarray(labels)
    except ValueError:
        return None, "the labels are rows of different lengths"
    if values.dtype.kind == "O":
        if missing := [index for index, value in enumerate(labels) if value is None]:
            return None, _lacking(len(missing), len(labels), of, missing[0], "have no label")
        values = _from_decimals(values)
    if values.dtype.kind == "f" and isinstance(labels, list) and all(isinstance(label, int) for label in labels):
        raise _too_large(where, max(labels))  # numpy has no integers for them
    if values.dtype.kind in "iub" and values.ndim == 1:
        if (values < 0).any():
            negative = np.flatnonzero(values < 0)
            return None, _lacking(len(negative), len(values), of, int(negative[0]), "have a negative label")
        if len(values) and int(values.max()) > np.iinfo(np.int64).max:
            raise _too_large(where, int(values.max()))
        return torch.from_numpy(values.astype(np.int64)), ""
    if values.dtype.kind in "iuf" and values.ndim in (1, 2):
        return _numbers(values, of)
    return None, "the labels are neither classes nor numbers"


def _too_large(where: str, label: int) -> DataError:
    return DataError(f"{where} has labels above 2^63 - 1, e.g. {label}: number the classes from 0, or use smaller ids.")


def _numbers(values: np.ndarray, of: str) -> tuple[Tensor | None, str]:
    """Returns regression targets (N, K) float32 as `as_targets` does."""
    with np.errstate(over="ignore"):
        rows = torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1)
    for found, how in ((rows.isnan(), "have no label"), (rows.isinf(), "have a label beyond the range of float32")):
        if wrong := found.any(1).nonzero().flatten().tolist():
            return None, _lacking(len(wrong), len(rows), of, wrong[0], how)
    return rows, ""


def are_ids(largest: int, distinct: int, named: int) -> bool:
    """Returns whether labels are ids instead of numbers of classes.

    `largest` of the `distinct` labels is then far above their number, and not every number up to it has a name.
    """
    return largest >= max(named, _FEW, _GAPS * distinct)


def _lacking(count: int, total: int, of: str, first: int, how: str) -> str:
    return f"{count:,} of {total:,} images{of} {how}, the first is image {first}"


def _from_decimals(values: np.ndarray) -> np.ndarray:
    """Returns exact decimals (N,) as integers if all are integral, else as floats; other objects unchanged."""
    if values.ndim != 1 or not all(isinstance(value, Decimal) and value.is_finite() for value in values):
        return values
    integral = all(value == value.to_integral_value() for value in values)
    try:
        return np.asarray([int(value) if integral else float(value) for value in values])
    except OverflowError:
        return values


def whole_floats(targets: Tensor | None) -> str:
    """Returns a note if every row is one integral float, because classes stored as floats look like this; else ""."""
    if targets is None or not targets.is_floating_point() or targets.shape[1] > 1 or not len(targets):
        return ""
    if not (targets == targets.round()).all():
        return ""
    return "the labels are floats and thus numbers to predict, although all are integral: store classes as integers"


def number_names(names: Iterable[str], classes: Sequence[str]) -> Tensor:
    """Returns class labels (N,) int64 for class names; `classes` must hold the names of all splits."""
    label = {name: index for index, name in enumerate(classes)}
    return torch.tensor([label[name] for name in names], dtype=torch.int64)
