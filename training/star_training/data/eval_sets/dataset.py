"""The splits of one data set, each opened on first access, and its conventions for evaluation.

This module alone decides which images are for training and which for evaluation: no image is in both.
"""

import functools
import os
from pathlib import Path

from star_catalog.columns import split_columns
from star_catalog.names import not_found

from ...settings.common import MAX_BAD
from ..intact import intact
from ..places import resolved
from ..sources.base import DataError, NoSuchSplit, OneSplit, Source
from ..sources.open import count_images, open_undecoded
from ..sources.subset import hold_out_by_class
from . import transfer

_TEST_SHARE = 0.2  # of a data set without splits
_OWN = "the data set's own"
NO_SPLITS = "since there are no splits"  # the end of the origin of such test images


def named(spec: str) -> str:
    """Returns the name in tables of the data set that a specification means."""
    place, columns = split_columns(spec)
    name, at, _ = place.partition("@")
    if name.startswith("torchvision:") or (at and "/" not in name):
        return name.removeprefix("torchvision:")
    path = Path(os.path.abspath(place))  # `.` and `..` have no name of their own
    labels = f":{columns['label']}" if "label" in columns else ""
    return ((path.stem if place.endswith(".parquet") else path.name) or place) + labels


class Splits:
    """The `train`, `val` and `test` images of a data set.

    `spec` is as in `open_source`, or e.g. `pets@ROOT`, a data set of `transfer.SETS` with the paper's split, which the
    bare name `pets` also means if the folder of data sets holds it.
    A pack, folder or torchvision data set whose name is in that table has the same conventions.

    Without a test split, the validation split becomes the test split, and validation images are held out of the
    training images. In a data set without splits, a fifth of each class's images is held out as the test images,
    always the same ones. NAME@ROOT must have its test split, because the protocol's numbers are defined on it.
    Images are decoded to so many `channels`, and a share `max_bad` of a split may fail to decode, as in `open_source`.
    """

    def __init__(self, spec: str, channels: int = 3, max_bad: float = MAX_BAD):
        path = resolved(spec)
        # one of the paper's data sets in the folder of data sets, unless that holds it as a Parquet file
        named = spec in transfer.SETS and path != spec and os.path.isdir(path)
        self.spec = f"{spec}@{path}" if named else path
        self.channels, self.max_bad = channels, max_bad
        self.test_images = _OWN  # the origin of the test images, known once they are opened

    @property
    def name(self) -> str:
        """The data set's name in tables: `cifar10` for `packs/cifar10.parquet`, `pets` for `pets@ROOT`.

        It ends with the column of the labels if that is given, because other labels are another task.
        """
        return named(self.spec)

    @property
    def per_class(self) -> bool:
        """Whether accuracy on this data set is by convention averaged over classes instead of images."""
        return self._conventions.per_class

    def held_out(self, seed: int) -> transfer.HeldOut:
        """Returns the rule to draw `val` from `train`: the data set's own, or else a tenth drawn with `seed`."""
        return self._conventions.held_out or transfer.HeldOut(9, 1, seed)

    def reading(self, channels: int) -> "Splits":
        """Returns this data set with images of so many channels."""
        return self if channels == self.channels else Splits(self.spec, channels, self.max_bad)

    @functools.cached_property
    def train(self) -> Source:
        """The training images, including those to hold out for validation."""
        return self._open("train") if self._given_test is not None else self._divided[0]

    @functools.cached_property
    def val(self) -> Source | None:
        """The validation images; None if they are to be held out of the training images."""
        if self._in_table and self._conventions.held_out:
            return None
        return None if self._given_test is self._given_val else self._given_val

    @functools.cached_property
    def test(self) -> Source:
        """The test images."""
        return self._given_test if self._given_test is not None else self._divided[1]

    @functools.cached_property
    def _given_val(self) -> Source | None:
        try:
            return self._open("val")
        except NoSuchSplit:
            return None

    @functools.cached_property
    def _given_test(self) -> Source | None:
        """The split used as the test split; None if the data set has no splits."""
        try:
            return self._open("test")
        except NoSuchSplit as error:
            if self._given_val is not None:
                self.test_images = "the validation split, since there is no test split"
                return self._given_val
            if self._in_table or not isinstance(error, OneSplit):
                raise
            return None

    @functools.cached_property
    def _divided(self) -> tuple[Source, Source]:
        """The training images and the test images of a data set without splits."""
        whole = self._open("train")
        parts = hold_out_by_class(whole, _TEST_SHARE)
        decode = "" if len(whole) in whole.inventory.images.values() else " that decode"
        found = f"{len(parts[1])} of {len(whole)} images{decode}, a fifth of each class drawn at random"
        self.test_images = f"{found}, {NO_SPLITS}"
        return parts

    @property
    def note(self) -> str:
        """A one-line note if the data set has no test split of its own, else "". Opens the test images."""
        _ = self.test
        return "" if self.test_images == _OWN else f"{self.name}: the test images are {self.test_images}"

    @functools.cached_property
    def expected_images(self) -> int | None:
        """The number of images in all splits, counted without decoding any; None if that takes a pass over the data."""
        return count_images(self.spec)

    @property
    def opened(self) -> dict[str, Source]:
        """The existing splits that were accessed so far, by name."""
        cached = {name: self.__dict__.get(name) for name in ("train", "val", "test")}
        return {name: source for name, source in cached.items() if source is not None}

    @property
    def _conventions(self) -> transfer.Conventions:
        return transfer.conventions(self.name.lower())

    @property
    def _in_table(self) -> bool:
        name, at, _ = self.spec.partition("@")
        return bool(at) and name in transfer.SETS

    def _open(self, split: str) -> Source:
        name, at, root = self.spec.partition("@")
        if self._in_table:
            if self.channels != 3:
                raise DataError(
                    f"{self.spec} holds photos in RGB, but the model takes images of {self.channels} channels: pass "
                    "them as a folder of images, a Parquet file or torchvision:NAME."
                )
            return transfer.open_set(name, os.path.expanduser(root), split, self.max_bad)
        if at and name.isalnum() and not os.path.exists(self.spec):
            raise DataError(not_found("transfer data set", name, transfer.SETS))
        return intact(open_undecoded(self.spec, split, max_bad=self.max_bad, channels=self.channels))
