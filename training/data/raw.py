"""What one kind of data set has to provide, `Raw`, and the rules that all kinds share: splits, labels, subsets."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .decode import Encoded, Picture, opened, undecodable
from .source import NoSuchSplit, OneSplit

# The split that a user asks for -> the names it may have in a data set, best first. Other names must match exactly.
_VAL = ("val", "valid", "validation")
# "test" is no validation split: which split serves as what where one is missing, `Splits` alone decides.
_SPLIT_NAMES = {"train": ("train",), "val": _VAL, "test": ("test",)}
SPLITS = ("train", "test", *_VAL)


class Raw(Protocol):
    """The images of one split, not decoded yet. What isn't explained here is as in `Source`."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def targets(self) -> Tensor | None: ...

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
        self.classes = raw.classes
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


def split_names(split: str) -> tuple[str, ...]:
    """The names to look for when a user asks for `split`, best first."""
    return _SPLIT_NAMES.get(split, (split,))


def choose_split(split: str, available: Collection[str], where: str) -> str:
    """The one of the `available` splits that a user means by `split`.

    Raises NoSuchSplit where there is none, OneSplit where the training split stands alone.
    """
    for name in split_names(split):
        if name in available:
            return name
    error = OneSplit if set(available) == {"train"} else NoSuchSplit
    raise error(f"no split {split!r} in {where}: it has {', '.join(map(repr, sorted(available))) or 'none'}.")


def has_splits(names: Collection[str]) -> bool:
    """Whether names of folders or files are those of splits: a train split and something held out."""
    return "train" in names and len(set(SPLITS) & set(names)) > 1


def files_by_split(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by the split that their names begin with, `test-00000-of-00001.parquet`; all are train if none does."""
    groups = defaultdict(list)
    for file in sorted(files):
        groups[re.split(r"[-_.]", file.name)[0]].append(file)
    return dict(groups) if has_splits(groups) else {"train": sorted(files)}


def as_targets(labels: Any) -> Tensor | None:
    """Numeric labels as `Source.targets`: integers are classes, floats or rows of numbers regression targets.

    None where a label is missing (None, NaN, a negative class) or they are no numbers: the set counts as unlabelled.
    """
    try:
        values = np.asarray(labels)
    except ValueError:  # rows of different lengths
        return None
    if values.dtype.kind in "iub" and values.ndim == 1:
        return None if (values < 0).any() else torch.from_numpy(values.astype(np.int64))
    if values.dtype.kind in "iuf" and values.ndim in (1, 2):
        rows = torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1)
        return None if rows.isnan().any() else rows
    return None


def number_names(names: Iterable[str], classes: Sequence[str]) -> Tensor:
    """The class labels (N,) int64 of samples whose class is known by name; `classes` must hold every split's names."""
    label = {name: index for index, name in enumerate(classes)}
    return torch.tensor([label[name] for name in names], dtype=torch.int64)
