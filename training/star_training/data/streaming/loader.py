"""Batches from lanes: every batch takes the same number of images from each lane.

Therefore batch order does not depend on the number of processes or workers. Each process owns consecutive lanes, and
each of its workers a consecutive part of these. A worker loads its part of each batch and sends the positions of its
lanes along, so that checkpoints hold the positions of the images used, not of those read ahead.

Letters: L lanes, l of them in a part, B images of a process's batch, b of them in a part, V views, S view size,
P parameters.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..decode import As, Picture, UndecodableImage, opened
from ..sources.base import DataError, Opens, report_bad
from ..views import MultiViewDataset, Packed, concatenate, stack
from ..workers import Failure, batches
from .shard_order import Deal, Drawn, Place

T = TypeVar("T")

_COLUMNS = 5  # of a lane's state: lap, number, taken as in Place; images drawn; bad ones among these


class Part(NamedTuple):
    """A worker's part of a batch."""

    views: Packed  # of b images
    state: Tensor  # (l, 5) int64, the state of its lanes after it
    bad: list[str]  # some of the images that were skipped for it, each with the reason


class Lanes:
    """The lanes of process `rank` of `world`, which supply its share of each global batch, and their state.

    Args:
        deal: the order of the images, the same in all processes.
        images: images per epoch. The share `max_bad` of these, or of all images drawn if more, may fail to decode.
        batch_size: global; see `count_lanes`.
    """

    def __init__(self, deal: Deal, name: str, images: int, max_bad: float, batch_size: int, rank: int, world: int):
        self.deal, self.name, self.images, self.max_bad = deal, name, images, max_bad
        self.each = batch_size // deal.lanes  # images of a lane in a batch
        self.own = range(deal.lanes * rank // world, deal.lanes * (rank + 1) // world)
        self._state = torch.zeros(deal.lanes, _COLUMNS, dtype=torch.int64)
        self._reported, self._examples = 0, list[str]()

    @property
    def state(self) -> Tensor:
        """(L, 5) int64 for this process's lanes, 0 for others; the sum over all processes is the state of the run."""
        mine = torch.zeros_like(self._state)
        mine[self.own.start : self.own.stop] = self._state[self.own.start : self.own.stop]
        return mine

    def go_to(self, state: Tensor) -> None:
        """Resumes from the summed states (L, 5) of a run's processes, whose number may differ."""
        self._state.copy_(state)
        self._reported = int(state[:, 4].sum())

    def check_bad(self, state: Tensor) -> None:
        """Warns of new bad images, from the summed states of all processes. Raises DataError above `max_bad`."""
        drawn, bad = state[:, 3:].sum(0).tolist()
        if bad > self._reported:
            self._reported = bad
            examples = self._examples[:3] or ["named by other processes"]
            self._examples = []
            report_bad(self.name, examples, bad, max(drawn, self.images), self.max_bad)

    def batches(
        self, count: int, dataset: MultiViewDataset, workers: int, pin: bool, shared: int = 1
    ) -> Generator[Packed, None, None]:
        """Yields the next batches, with views from a dataset whose source is a `HeldImage`. Raises DataError.

        At most one worker per lane is started, because others would be idle. `shared` consecutive images of a lane
        share one draw, that of the first.
        """
        workers = min(workers, len(self.own))
        with closing(batches(_Parts(self, count, dataset, shared), None, workers, pin=False)) as parts:
            for _ in range(count):
                batch: list[Part] = list(islice(parts, max(1, workers)))
                joined = concatenate([p.views for p in batch], pin)
                self._state[self.own.start : self.own.stop] = torch.cat([p.state for p in batch])
                self._examples += [example for p in batch for example in p.bad][: 3 - len(self._examples)]
                yield joined


def count_lanes(wanted: int, shards: int, batch_size: int, processes: int) -> int:
    """Returns the number of lanes for `shards` shards: the wanted number, but at most one per shard.

    Raises ValueError if the batch isn't divisible by the lanes, or the lanes by the processes.
    """
    lanes = min(wanted, shards)
    if batch_size % lanes == 0 and lanes % processes == 0:
        return lanes
    fitting = [n for n in range(1, shards + 1) if batch_size % n == 0 and n % processes == 0]
    best = max((n for n in fitting if n <= wanted), default=min(fitting, default=None))
    way_out = f"--set data.lanes={best}" if best else "fewer processes, more shards or another batch_size"
    raise ValueError(
        f"{shards} shards make {lanes} lanes (data.lanes={wanted}), but batch_size {batch_size} must be a multiple of "
        f"the lanes, and the lanes a multiple of the {processes} processes; use {way_out}"
    )


class _Parts(IterableDataset[Part | Failure]):
    """This worker's parts of `count` batches; a `Failure` stands in place of a part that could not be made."""

    def __init__(self, lanes: Lanes, count: int, dataset: MultiViewDataset, shared: int):
        self.lanes, self.count, self.dataset, self.shared = lanes, count, dataset, shared

    def __iter__(self) -> Iterator[Part | Failure]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        own = self.lanes.own
        mine = own[len(own) * number // workers : len(own) * (number + 1) // workers]
        states = self.lanes.state.tolist()
        try:
            yield from self._parts(
                [_Reader(self.lanes, lane, states[lane], self.dataset, self.shared) for lane in mine]
            )
        except Exception as error:
            yield Failure.of(error, cast(HeldImage, self.dataset.source).where)

    def _parts(self, readers: list["_Reader"]) -> Iterator[Part]:
        for _ in range(self.count):
            views = [next(reader) for reader in readers for _ in range(self.lanes.each)]
            bad = [example for reader in readers for example in reader.reported()]
            state = torch.tensor([reader.state for reader in readers])
            yield Part(stack(views), state, bad)


class HeldImage(Opens):
    """A source that holds one encoded image and ignores the index, for the dataset of `Lanes.batches`."""

    data = b""
    where = ""  # for messages, while it is decoded
    targets = None

    def __init__(self, channels: int = 3):
        self._channels = channels

    def open(self, index: int, use: Callable[[Picture], T]) -> T:
        """Returns `use(picture)` of the held image. Raises UndecodableImage."""
        return use(opened(As(self.data, self._channels)))


class _Reader:
    """Yields the views of a lane's images from a state on; skips bad images."""

    def __init__(self, lanes: Lanes, lane: int, state: list[int], dataset: MultiViewDataset, shared: int):
        self.state = state
        self._lanes, self._dataset, self._shared = lanes, dataset, shared
        self._made, self._draw = 0, 0
        self._images = lanes.deal.images(lane, Place(*state[:3]))
        self._bad: list[str] = []

    def reported(self) -> list[str]:
        """Returns the bad images since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def __next__(self) -> Packed:
        in_a_row = 0
        while True:
            drawn = next(self._images)
            self.state[:3] = drawn.after
            self.state[3] += 1
            try:
                return self._views(drawn)
            except UndecodableImage as error:
                in_a_row += 1
                self.state[4] += 1
                self._bad.append(f"{drawn.where} ({error})")
                self._check(in_a_row)

    def _views(self, drawn: Drawn) -> Packed:
        held = cast(HeldImage, self._dataset.source)
        held.data, held.where = drawn.data, drawn.where
        index = (drawn.shard + 1 << 32) + drawn.position
        draw = self._draw if self._made % self._shared else index
        views = self._dataset[drawn.lap, index, draw]
        self._made, self._draw = self._made + 1, draw
        held.where = ""  # later failures are not this image's
        return views

    def _check(self, in_a_row: int) -> None:
        """Raises DataError after too many bad images in a row, because the search might never end."""
        lanes = self._lanes
        if in_a_row > lanes.max_bad * lanes.images:
            raise DataError(
                f"{in_a_row} images of {lanes.name} in a row don't decode, the last {self._bad[-1]}. max_bad = "
                f"{lanes.max_bad:g} of the {lanes.images} of an epoch is allowed: repair or remove them, or raise it "
                "(--max-bad)."
            )
