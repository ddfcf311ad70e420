"""`Source`, the interface of a data set to the rest of the project, and the reports on its bad images."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from star_catalog.columns import split_columns, with_columns

from ...messages import Note
from ..decode import Decoded, Picture
from ..errors import DataError

T = TypeVar("T")


class NoSuchSplit(DataError):
    """The data set is usable, but has no split of that name."""


class OneSplit(NoSuchSplit):
    """The data set has no splits: all of it is "train", and another split was requested."""


class BadImageWarning(Note):
    """Some images of a data set don't decode; they are left out, or replaced in training."""


@dataclass(frozen=True)
class Inventory:
    """The contents of a data set over all its splits, for the summary that is printed before anything runs."""

    images: Mapping[str, int | None]  # by the split's own name; None if counting takes a pass over the data
    notes: tuple[str, ...] = ()  # the interpretation of ambiguous names
    left_out: tuple[str, ...] = ()  # each with the reason
    unlabelled: str = ""  # why this split has no labels although some could be expected


NOT_TAKEN = Inventory({})  # of a data set whose images come from a list


class Source(Protocol):
    """The images of one split of one data set, in a fixed order; safe to index from forked workers."""

    @property
    def name(self) -> str:
        """The specification that the user typed, for messages."""

    @property
    def fingerprint(self) -> str:
        """A short hex string that changes with the data, so that a resumed run can detect a change."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes by label; None if there are no classes or they have no names."""

    @property
    def targets(self) -> Tensor | None:
        """(N,) int64 for classes, (N, K) float32 for regression, None if the data set or any image is unlabelled."""

    @property
    def inventory(self) -> Inventory:
        """The contents of the whole data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Returns image `index`, (C, H, W), of any size: uint8, or float32 from 0 to 255 for more than 8 bits.

        Don't write to it: it may be a view of shared memory.
        """

    def describe(self, index: int) -> str:
        """Returns the origin of image `index`, for messages: a path, or 'row 17 of cifar10.parquet'."""

    @property
    def bad(self) -> tuple[int, ...]:
        """Indices that failed to decode so far, in any worker; their targets are wrong, because images replace them."""

    def check_bad(self) -> None:
        """Warns of new bad images; call regularly in the main process. Raises DataError above the share `max_bad`."""


class Opens(ABC):
    """A source that decodes images on access, and can decode them at a smaller size."""

    decodes = True  # False for a part of a source in memory

    @abstractmethod
    def open(self, index: int, use: Callable[[Picture], T]) -> T:
        """Returns `use(picture)` of image `index`, or of its replacement if that image doesn't decode.

        `use` is called again for the replacement, so that its result fits the size of that image.
        """


def decodes_on_access(source: Source) -> bool:
    """Returns whether images are decoded on access; other sources hold them in memory."""
    return isinstance(source, Opens) and source.decodes


def ready(source: Source) -> None:
    """Reads what forked workers share, e.g. images that are held in memory, by one access; call it before the fork."""
    if len(source):
        source[0]


def open_image(source: Source, index: int, use: Callable[[Picture], T]) -> T:
    """Returns `use(picture)` of image `index` of any source; see `Opens`."""
    return source.open(index, use) if isinstance(source, Opens) else use(Decoded(source[index]))


def name_alone(place: str) -> str:
    """Returns the name of a data source, without its folder on this machine."""
    place, columns = split_columns(place)
    return with_columns(_without_folder(place), columns)


def _without_folder(place: str) -> str:
    if Path(place).exists():
        return Path(os.path.abspath(place)).name  # `.` and `..` have no name of their own
    kind, mark, rest = place.partition(":")
    if kind == "stream" and not rest.startswith("hf:"):
        return f"stream:{Path(rest.partition('?')[0]).name}"
    if mark and "/" not in kind:
        is_path = rest.startswith(("/", ".", "~")) or Path(rest).exists()  # not the id of a repository on the Hub
        return f"{kind}:{Path(rest).name if is_path else rest.partition('@')[0]}"
    name = place.partition("@")[0]  # NAME of NAME@ROOT
    return Path(place).name if "/" in name else name


def report_bad(name: str, examples: Sequence[str], bad: int, total: int, max_bad: float) -> None:
    """Warns that `bad` of `total` images can't be used, naming some. Raises DataError above the share `max_bad`."""
    rest = f" and {bad - len(examples)} more" if bad > len(examples) else ""
    message = f"{bad} of the {total} images of {name} can't be used: {'; '.join(examples)}{rest}."
    if bad == total:
        raise DataError(f"{message} There is nothing to use.")
    if bad / total > max_bad:  # a quotient, not max_bad * total: 0.29 * 100 is less than 29
        raise DataError(
            f"{message} max_bad = {max_bad:g} allows fewer: repair or remove them, or raise max_bad (--max-bad "
            "of pretrain, finetune, eval and compare)."
        )
    warnings.warn(f"{message} {'It is' if bad == 1 else 'They are'} not used.", BadImageWarning, stacklevel=3)


def now_bad(name: str, count: int, example: str) -> DataError:
    """Returns the error for images that decoded when they were tried, and don't any more."""
    bad = f"{count} image{'s' if count != 1 else ''} of {name} {_fail(count)}, e.g. {example}"
    return DataError(f"{bad}, but they did at first; make sure that nothing changes them, then try again.")


def _fail(count: int) -> str:
    return "doesn't decode" if count == 1 else "don't decode"
