"""All splits of a data set by their own names, for passes over every image."""

import functools
import os
from collections.abc import Callable

from ..sources.base import NoSuchSplit, Source
from ..sources.open import open_undecoded
from ..split_names import kind_of
from . import transfer

_ORDER = ("train", "val", "test", None)


def every_split(spec: str, channels: int = 3) -> dict[str, Source]:
    """Returns the splits of a data set by their own names; its images are decoded on access.

    `spec` and `channels` are as in `Splits`. Images that don't decode are in `Source.bad` after the access, however
    many they are. Raises DataError if the data can't be used.
    """
    open_split = _opener(spec, channels)
    opened: dict[str, Source] = {}
    names: dict[str, None] = {}  # in order, without duplicates
    missing = None
    for usual in _ORDER[:3]:
        try:
            source = open_split(usual)
        except NoSuchSplit as error:
            missing = missing or error
            continue
        own = [name for name in source.inventory.images if name] or [usual]
        names |= dict.fromkeys(own)
        opened[usual] = source
    if missing and not opened:
        raise missing
    order = sorted(names, key=lambda name: _ORDER.index(kind_of(name)))
    return {name: opened[name] if name in opened else open_split(name) for name in order}


def _opener(spec: str, channels: int) -> Callable[[str], Source]:
    name, at, root = spec.partition("@")
    if at and name in transfer.SETS:
        return functools.partial(transfer.open_set, name, os.path.expanduser(root))
    return functools.partial(open_undecoded, spec, max_bad=1.0, cache_bytes=0, channels=channels)
