"""Unique names of data sets: two folders of the same name are two data sets."""

import os
from collections.abc import Sequence
from pathlib import Path

from star_catalog.columns import split_columns

from ...settings.common import MAX_BAD
from . import transfer
from .dataset import Splits


class Named(Splits):
    """A data set under a longer name than its folder's."""

    def __init__(self, spec: str, name: str, channels: int = 3, max_bad: float = MAX_BAD):
        super().__init__(spec, channels, max_bad)
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def reading(self, channels: int) -> Splits:
        return self if channels == self.channels else Named(self.spec, self._name, channels, self.max_bad)

    @property
    def _conventions(self) -> transfer.Conventions:
        return transfer.conventions(Splits(self.spec).name.lower())


def ends(spec: str) -> list[str]:
    """Returns the possible names of a data set, shortest first: its name alone, then with its parent folders."""
    name = Splits(spec).name
    spec, _ = split_columns(spec)
    scheme, colon, rest = spec.partition(":")
    place = rest if colon and "/" not in scheme else spec  # hf:OWNER/NAME has an owner
    _, at, root = place.partition("@")
    around: tuple[str, ...] = ()
    if at and not os.path.exists(spec):  # pets@ROOT, torchvision:NAME@ROOT
        around = Path(os.path.abspath(os.path.expanduser(root))).parts
    elif place == spec:
        around = Path(os.path.abspath(os.path.expanduser(spec))).parts[:-1]
    elif "/" in place:
        around = tuple(place.split("/")[:-1])
    around = tuple(part for part in around if part != os.sep)
    return ["/".join((*around[len(around) - count :], name)) for count in range(len(around) + 1)]


def distinctly_named(specs: Sequence[str], max_bad: float = MAX_BAD) -> list[Splits]:
    """Returns the data sets of one command, each named by the shortest end of its path that is unique among them.

    A path given twice is one data set. The share `max_bad` of each split's images may fail to decode.
    """
    whole = [Splits(spec).spec for spec in specs]
    places = {os.path.abspath(spec) if os.path.exists(spec) else spec: spec for spec in whole}
    known = {spec: ends(spec) for spec in places.values()}
    named: list[Splits] = []
    for spec, names in known.items():
        taken = {name for other, theirs in known.items() if other != spec for name in theirs}
        name = next((name for name in names if name not in taken), spec)
        own = name == names[0]
        named.append(Splits(spec, max_bad=max_bad) if own else Named(spec, name, max_bad=max_bad))
    return named
