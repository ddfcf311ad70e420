"""The splits of one data set, each opened when it is first asked for."""

import functools
from pathlib import Path

from .open import open_source
from .source import NoSuchSplit, Source


class Splits:
    """The `train`, `val` and `test` images of a data set that a user named; `open_source` says what names there are."""

    def __init__(self, spec: str):
        self.spec = spec

    @property
    def name(self) -> str:
        """The data set's name in tables: `cifar10` for `packs/cifar10.parquet`."""
        return Path(self.spec).stem if self.spec.endswith(".parquet") else Path(self.spec).name

    @functools.cached_property
    def train(self) -> Source:
        return open_source(self.spec, "train")

    @functools.cached_property
    def val(self) -> Source | None:
        """The validation split, None where the data set has none of its own."""
        try:
            return open_source(self.spec, "val")
        except NoSuchSplit:
            return None

    @functools.cached_property
    def test(self) -> Source:
        return open_source(self.spec, "test")

    @property
    def opened(self) -> dict[str, Source]:
        """The splits that were asked for so far and exist, by name."""
        found = {name: self.__dict__.get(name) for name in ("train", "val", "test")}
        return {name: source for name, source in found.items() if source is not None}
