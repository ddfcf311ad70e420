"""Data sets that can only be read from front to back: what the user typed to shards, and a look at their beginning."""

import os
import re
from itertools import chain, islice

from ..lazy import StreamedSource
from ..sources.base import DataError, Inventory
from ..sources.raw import digest
from ..sources.tar import expand_braces
from .hub_shards import open_hub_shards
from .shards import Shards, TarShards, is_remote

PREFIX = "stream:"
_FIRST = 256  # images that can be asked for one by one


class Stream(StreamedSource):
    """A data set to be read through its `shards`; as a `Source` it has only the first images, at most 256.

    Its fingerprint is that of all shards and of the first images' bytes: where shards are remote, all else that changes
    behind the same names goes unseen. Raises DataError where there is no image.
    """

    def __init__(self, name: str, shards: Shards):
        super().__init__(name, _First(name, shards), max_bad=1.0)
        self.shards = shards


class _First:
    """The first images of some shards, encoded, in memory: a `Raw`."""

    classes = None
    targets = None

    def __init__(self, name: str, shards: Shards):
        self._images = list(islice(chain.from_iterable(map(shards.read, range(len(shards)))), _FIRST))
        if not self._images:
            raise DataError(f"no images found in {name}; expected members such as 'KEY.jpg'.")
        self.fingerprint = digest([shards.fingerprint, *(image.data for image in self._images)])
        self.inventory = Inventory({"train": None}, unlabelled="labels are not read from a stream")

    def __len__(self) -> int:
        return len(self._images)

    def encoded(self, index: int) -> bytes:
        return self._images[index].data

    def describe(self, index: int) -> str:
        return self._images[index].where


def open_stream(spec: str) -> Stream:
    """The stream that `spec` names; it has no labels.

    Args:
        spec: `stream:shard-{0000..0003}.tar` or the same behind http(s)://; `stream:hf:NAME[:CONFIG]`.

    Raises DataError for whatever can't be used.
    """
    rest = spec.removeprefix(PREFIX)
    if rest.startswith("hf:"):
        return Stream(spec, open_hub_shards(rest.removeprefix("hf:")))
    if not is_remote(rest) and (re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", rest) or rest.startswith("pipe:")):
        raise DataError(f"{spec!r}: streams are read from files, http://, https:// and hf:NAME; give one of these.")
    names = expand_braces(rest if is_remote(rest) else os.path.expanduser(rest))
    for name in names:
        if not is_remote(name) and not os.path.isfile(name):
            raise DataError(f"the shard {name!r} of {spec!r} is no file; give a range of shards that are all there.")
    return Stream(spec, TarShards(tuple(names)))
