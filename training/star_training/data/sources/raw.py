"""What one kind of data set has to provide, `Raw`, and the rules that all kinds share: labels, subsets."""

import hashlib
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..decode import Encoded, Picture, opened, undecodable
from .base import DataError, Inventory


class Raw(Protocol):
    """The images of one split, not decoded yet. What isn't explained here is as in `Source`."""

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
        """Image `index` in a form that `decode` takes. May raise anything: see `load`."""

    def describe(self, index: int) -> str: ...


def picture(raw: Raw, index: int) -> Picture:
    """Image `index` with its size known; `UndecodableImage` whatever goes wrong, a vanished file included."""
    with undecodable():
        return opened(raw.encoded(index))


def load(raw: Raw, index: int) -> Tensor:
    """Image `index` decoded, uint8 (3, H, W); raises as `picture`."""
    return picture(raw, index).shrunk(1)[0]


class Subset:
    """The images of `raw` at the given indices, as a `Raw` of their own."""

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


def evenly_spaced(total: int, count: int) -> Tensor:
    """At most `count` distinct indices (n,) int64 spread over 0..total-1: fair also to images sorted by class."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()


def digest(parts: Iterable[object]) -> str:
    """Short hex that changes with any of the parts (bytes as they are, the rest by repr) or their order."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        sha.update(f"{len(data)}:".encode() + data)
    return sha.hexdigest()[:16]


def as_targets(labels: Any) -> tuple[Tensor | None, str]:
    """Numeric labels as `Source.targets`, and why there are none.

    Integers are classes, and so are decimals (`decimal.Decimal`) that are all whole. Floats and rows of numbers are
    regression targets, whole or not. One label that is missing (None, NaN, a negative class) or no number leaves the
    whole set unlabelled. Raises DataError where a class is beyond int64.
    """
    try:
        values = np.asarray(labels)
    except ValueError:
        return None, "the labels are rows of different lengths"
    if values.dtype.kind == "O":
        if missing := [index for index, value in enumerate(labels) if value is None]:
            return None, _lacking(len(missing), len(labels), missing[0], "have no label")
        values = _from_decimals(values)
    if values.dtype.kind in "iub" and values.ndim == 1:
        if (values < 0).any():
            negative = np.flatnonzero(values < 0)
            return None, _lacking(len(negative), len(values), int(negative[0]), "have a negative label")
        if len(values) and int(values.max()) > np.iinfo(np.int64).max:
            raise DataError(f"the labels go to {values.max()}: number the classes from 0, without gaps.")
        return torch.from_numpy(values.astype(np.int64)), ""
    if values.dtype.kind in "iuf" and values.ndim in (1, 2):
        rows = torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1)
        missing = rows.isnan().any(1).nonzero().flatten().tolist()
        return (None, _lacking(len(missing), len(rows), missing[0], "have no label")) if missing else (rows, "")
    return None, "the labels are neither classes nor numbers"


def _lacking(count: int, total: int, first: int, how: str) -> str:
    return f"{count:,} of {total:,} images {how}, the first is image {first}"


def _from_decimals(values: np.ndarray) -> np.ndarray:
    """Exact decimals (N,) as integers where all are whole, else as floats; other objects as they are."""
    if values.ndim != 1 or not all(isinstance(value, Decimal) and value.is_finite() for value in values):
        return values
    whole = all(value == value.to_integral_value() for value in values)
    try:
        return np.asarray([int(value) if whole else float(value) for value in values])
    except OverflowError:
        return values


def whole_floats(targets: Tensor | None) -> str:
    """The note for one float a row that is always whole: classes that were stored as floats look like this."""
    if targets is None or not targets.is_floating_point() or targets.shape[1] > 1 or not len(targets):
        return ""
    if not (targets == targets.round()).all():
        return ""
    return "the labels are floats, thus numbers to predict, though all are whole: store classes as integers"


def number_names(names: Iterable[str], classes: Sequence[str]) -> Tensor:
    """The class labels (N,) int64 of samples whose class is known by name; `classes` must hold every split's names."""
    label = {name: index for index, name in enumerate(classes)}
    return torch.tensor([label[name] for name in names], dtype=torch.int64)
