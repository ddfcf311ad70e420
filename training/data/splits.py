"""The splits of one data set, each opened when it is first asked for, and its conventions for evaluation."""

import functools
import os
from pathlib import Path

from star_zoo.names import not_found

from . import transfer
from .intact import intact
from .open import open_source
from .source import DataError, NoSuchSplit, Source


class Splits:
    """The `train`, `val` and `test` images of a data set that a user named.

    `open_source` says what names there are; besides, `pets@ROOT` is a set of `transfer.SETS` with the paper's split.
    A pack, folder or torchvision set whose name is in that table has its conventions too.
    """

    def __init__(self, spec: str):
        self.spec = spec

    @property
    def name(self) -> str:
        """The data set's name in tables: `cifar10` for `packs/cifar10.parquet`, `pets` for `pets@ROOT`."""
        name, at, _ = self.spec.partition("@")
        if name.startswith("torchvision:") or (at and "/" not in name):
            return name.removeprefix("torchvision:")
        path = Path(os.path.abspath(os.path.expanduser(self.spec)))  # `.` and `..` have no name of their own
        return (path.stem if self.spec.endswith(".parquet") else path.name) or self.spec

    @property
    def per_class(self) -> bool:
        """Whether accuracy on this set is by convention the mean over classes, and not over images."""
        return self._conventions.per_class

    def held_out(self, seed: int) -> transfer.HeldOut:
        """Which training images validate where there is no `val`: the set's own rule, else a tenth drawn by `seed`."""
        return self._conventions.held_out or transfer.HeldOut(9, 1, seed)

    @functools.cached_property
    def train(self) -> Source:
        """The training images, those to hold out for validation among them."""
        return self._open("train")

    @functools.cached_property
    def val(self) -> Source | None:
        """The validation split, None where the data set has none of its own."""
        try:
            return self._open("val")
        except NoSuchSplit:
            return None

    @functools.cached_property
    def test(self) -> Source:
        """The test images."""
        return self._open("test")

    @property
    def opened(self) -> dict[str, Source]:
        """The splits that were asked for so far and exist, by name."""
        found = {name: self.__dict__.get(name) for name in ("train", "val", "test")}
        return {name: source for name, source in found.items() if source is not None}

    @property
    def _conventions(self) -> transfer.Conventions:
        return transfer.conventions(self.name.lower())

    def _open(self, split: str) -> Source:
        name, at, root = self.spec.partition("@")
        if name in transfer.SETS and at:
            return transfer.open_set(name, os.path.expanduser(root), split)
        if at and name.isalnum() and not os.path.exists(self.spec):
            raise DataError(not_found("transfer data set", name, transfer.SETS))
        return intact(open_source(self.spec, split))
