"""Lanes: the order of the images of shards with sequential access.

In each pass over the shards, a new permutation of them is dealt to L lanes like cards. A lane reads its shards one
after the other; each shard's images pass through a buffer of K images, from which they are drawn at random. The order
is a pure function of the seed, so that a lane can be resumed at any position by reading up to it, without decoding.

Letters: S shards, L lanes, K images in a lane's buffer.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple, TypeVar

import torch

from ..sources.base import DataError
from ..views import seeded
from .shards import Shards

T = TypeVar("T")
_EMPTY = 100  # passes without an image; a lane has other shards in each, so this many don't happen by chance


class Place(NamedTuple):
    """The position of a lane."""

    lap: int = 0  # completed passes
    number: int = 0  # index of the current shard among the lane's shards of this pass
    taken: int = 0  # images drawn from that shard


class Drawn(NamedTuple):
    """An image drawn from a lane."""

    lap: int
    shard: int
    position: int  # in the shard
    where: str  # the image's origin, for messages
    data: bytes
    after: Place  # the lane's position after it


@dataclass(frozen=True)
class Deal:
    """The shards and settings that determine the order of each lane's images."""

    shards: Shards
    lanes: int
    buffer: int  # K: images of each lane in memory
    seed: int

    def dealt(self, lane: int, lap: int) -> list[int]:
        """Returns the shards of a lane in a pass, in the order of reading."""
        order = torch.randperm(len(self.shards), generator=seeded(self.seed, lap))
        return order[lane :: self.lanes].tolist()

    def images(self, lane: int, start: Place) -> Iterator[Drawn]:
        """Yields a lane's images from a position on, for ever. Raises DataError after 100 passes without an image."""
        empty = 0
        for lap in count(start.lap):
            first, none = (start if lap == start.lap else Place(lap)), True
            for number, shard in islice(enumerate(self.dealt(lane, lap)), first.number, None):
                taken = first.taken if number == first.number else 0
                for drawn in islice(self._shard(lap, number, shard), taken, None):
                    none = False
                    yield drawn
            empty = empty + 1 if none else 0
            if empty == _EMPTY:
                raise DataError(f"{_EMPTY} passes had no image for lane {lane}; leave out shards without images.")

    def _shard(self, lap: int, number: int, shard: int) -> Iterator[Drawn]:
        generator = seeded(self.seed, lap, shard, self.buffer)
        images = shuffled(enumerate(self.shards.read(shard)), self.buffer, generator)
        for taken, (position, (where, data)) in enumerate(images, 1):
            yield Drawn(lap, shard, position, where, data, Place(lap, number, taken))


def shuffled(items: Iterable[T], size: int, generator: torch.Generator) -> Iterator[T]:
    """Yields the items in random order, each at most `size` positions early; holds at most `size` items."""
    held: list[T] = []
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        k = int(torch.randint(size, (), generator=generator))
        yield held[k]
        held[k] = item
    for k in torch.randperm(len(held), generator=generator).tolist():
        yield held[k]
