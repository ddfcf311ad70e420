"""What the rest of the project sees of a data set: `Source`, and how its bad images are told to the user."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from ..decode import Decoded, Picture

T = TypeVar("T")


class DataError(ValueError):
    """The data can't be used as asked; the message says what was given, what is wrong and what to do."""


class NoSuchSplit(DataError):
    """The data set is fine, but has no split of that name."""


class OneSplit(NoSuchSplit):
    """The data set has no splits: all of it is "train", and another split was asked for."""


class BadImageWarning(UserWarning):
    """Some images of a data set don't decode and are left out, or replaced in training."""


@dataclass(frozen=True)
class Inventory:
    """The contents of a data set over all its splits, for the summary that is printed before anything runs."""

    images: Mapping[str, int | None]  # by the split's own name; None where counting takes a pass over the data
    notes: tuple[str, ...] = ()  # how names were understood that could mean something else
    left_out: tuple[str, ...] = ()  # each with the reason
    unlabelled: str = ""  # why this split has no labels, where labels could be expected


NOT_TAKEN = Inventory({})  # of a set whose images a list names


class Source(Protocol):
    """The images of one split of one data set, in a fixed order; safe to index from forked workers."""

    @property
    def name(self) -> str:
        """What the user typed, for messages."""

    @property
    def fingerprint(self) -> str:
        """Short hex that changes when the data change, so that a resumed run can tell."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names by class label, where there are classes and they have names."""

    @property
    def targets(self) -> Tensor | None:
        """(N,) int64 for classes, (N, K) float32 for regression, None where the set or any image is unlabelled."""

    @property
    def inventory(self) -> Inventory:
        """The contents of the whole data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Image `index`, uint8 (3, H, W), of any size. It may be a view of shared memory: don't write to it."""

    def describe(self, index: int) -> str:
        """Where image `index` came from, for messages: a path, or 'row 17 of cifar10.parquet'."""

    @property
    def bad(self) -> tuple[int, ...]:
        """Indices found not to decode so far, in any worker; another image stands in, so their targets are wrong."""

    def check_bad(self) -> None:
        """To call now and then in the main process: warns of newly found bad images, DataError above `max_bad`."""


class Opens(ABC):
    """A source whose images are decoded when asked for: what is made of one may ask for it smaller than it is."""

    @abstractmethod
    def open(self, index: int, use: Callable[[Picture], T]) -> T:
        """What `use` makes of image `index`; if that turns out not to decode, of the one that stands in for it.

        `use` is then called anew, so that what it makes fits the image that it is made of.
        """


def open_image(source: Source, index: int, use: Callable[[Picture], T]) -> T:
    """What `use` makes of image `index` of any source: see `Opens`."""
    return source.open(index, use) if isinstance(source, Opens) else use(Decoded(source[index]))


def name_alone(place: str) -> str:
    """What a data source is called, without where it lies on this machine."""
    kind, mark, rest = place.partition(":")
    if kind == "stream" and not rest.startswith("hf:"):
        return f"stream:{Path(rest.partition('?')[0]).name}"
    if mark and "/" not in kind:  # torchvision:STL10@/data/stl10
        return f"{kind}:{rest.partition('@/')[0]}"
    # `.` and `..` have no name of their own
    return Path(os.path.abspath(place)).name if Path(place).exists() else place


def report_bad(name: str, examples: Sequence[str], bad: int, total: int, max_bad: float) -> None:
    """Warns that `bad` of `total` images don't decode, naming some; DataError above the fraction `max_bad`."""
    rest = f" and {bad - len(examples)} more" if bad > len(examples) else ""
    message = f"{bad} of the {total} images of {name} don't decode: {'; '.join(examples)}{rest}."
    if bad == total:
        raise DataError(f"{message} There is nothing to use.")
    if bad / total > max_bad:  # a quotient, not max_bad * total: 0.29 * 100 is less than 29
        raise DataError(f"{message} max_bad = {max_bad:g} of them is allowed: repair or remove them, or raise max_bad.")
    warnings.warn(f"{message} They are not used.", BadImageWarning, stacklevel=3)
