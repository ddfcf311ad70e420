"""Data sets with sequential access only: opens the shards of a user's specification, and their first images."""

import os
import re
from itertools import chain, islice

from ..lazy import StreamedSource
from ..sources.base import DataError, Inventory
from ..sources.raw import digest, in_channels
from ..sources.tar import expand_braces
from .hub_shards import open_hub_shards
from .shards import Shards, TarShards, is_remote

PREFIX = "stream:"
_FIRST = 256  # images with random access


class Stream(StreamedSource):
    """A data set that is read through its `shards`; as a `Source`, it holds only the first 256 images or fewer.

    Its fingerprint depends on the shards' fingerprint and on the bytes of the first images: other changes of remote
    shards under the same names are not detected. Raises DataError if there is no image.
    """

    def __init__(self, name: str, shards: Shards, channels: int):
        super().__init__(name, in_channels(_First(name, shards), channels), max_bad=1.0)
        self.shards = shards


class _First:
    """The first images of the shards, encoded, in memory, as a `Raw`."""

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


def open_stream(spec: str, channels: int = 3) -> Stream:
    """Opens the stream that `spec` names; it has no labels.

    Args:
        spec: `stream:shard-{0000..0003}.tar` or the same behind http(s)://; `stream:hf:NAME[:CONFIG]`.
        channels: of the decoded images; see `open_source`.

    Raises DataError if the data can't be used.
    """
    rest = spec.removeprefix(PREFIX)
    if rest.startswith("hf:"):
        return Stream(spec, open_hub_shards(rest.removeprefix("hf:")), channels)
    if not is_remote(rest) and (re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", rest) or rest.startswith("pipe:")):
        raise DataError(f"{spec!r}: streams are read from files, http://, https:// and hf:NAME; pass one of these.")
    names = expand_braces(rest if is_remote(rest) else os.path.expanduser(rest))
    for name in names:
        if not is_remote(name) and not os.path.isfile(name):
            raise DataError(f"the shard {name!r} of {spec!r} is not a file; pass a range of shards that all exist.")
    return Stream(spec, TarShards(tuple(names)), channels)
