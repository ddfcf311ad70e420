"""Batches of views of images; the order of the images and the views' parameters are pure functions of the seed.

Letters: B images on this process, C channels, V views of an image, S_v size of view v, P parameters, N images of the
data set.
"""

import functools
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from star_zoo import Policy
from star_zoo.objectives import Batch

from .decode import Picture
from .sources.base import Source, open_image, ready
from .workers import Batches, load_once
from .workers import batches as load_batches

Plan = Callable[[int, int, torch.Generator], Tensor]  # height, width, generator -> (V, P)


def seeded(*key: int) -> torch.Generator:
    """Returns a generator seeded by the given numbers alone; different numbers yield unrelated generators."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Packed(NamedTuple):
    """The views of one image, or of B images with a leading B, in few tensors, which transfer fast between processes.

    Consecutive views of one size form one tensor with the channels last, as decoding and resizing produce them; the
    axes are permuted once, on the device.
    """

    views: list[Tensor]  # runs of R views of one size: (R, S_v, S_v, C) uint8, or float32 from 0 to 255
    params: Tensor  # (V, P) float32
    index: Tensor  # type: ignore[assignment] # () int64
    size: Tensor  # (2,) int64
    target: Tensor | None  # (), or (K,)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Packed":
        """Returns a copy on another device."""
        return _each([self], lambda parts: parts[0].to(device, non_blocking=non_blocking))

    def batch(self) -> Batch:
        """Returns the B images as a `Batch`, whose views share this memory."""
        views = [view for run in self.views for view in run.permute(0, 1, 4, 2, 3).unbind(1)]
        return Batch(views, list(self.params.unbind(1)), self.index, self.size, self.target)


def stack(images: Sequence[Packed]) -> Packed:
    """Collates images into a batch."""
    return _each(images, torch.stack)


def small_batch(dataset: "MultiViewDataset", count: int, device: torch.device) -> Batch:
    """Returns the views of the first image in `count` epochs, as a batch on a device."""
    return stack([dataset[epoch, 0] for epoch in range(count)]).to(device).batch()


def concatenate(batches: Sequence[Packed], pin: bool = False) -> Packed:
    """Concatenates parts of a batch, in pinned memory if `pin`."""

    def joined(parts: list[Tensor]) -> Tensor:
        rows = sum(map(len, parts))
        kind = functools.reduce(torch.promote_types, {part.dtype for part in parts})  # images may differ in depth
        return torch.cat(parts, out=torch.empty(rows, *parts[0].shape[1:], dtype=kind, pin_memory=pin))

    return _each(batches, joined)


def _each(packs: Sequence[Packed], join: Callable[[list[Tensor]], Tensor]) -> Packed:
    views, params, index, size, target = zip(*packs, strict=True)
    return Packed(
        [join(list(runs)) for runs in zip(*views, strict=True)],
        join(list(params)),
        join(list(index)),
        join(list(size)),
        None if target[0] is None else join(list(target)),
    )


class MultiViewDataset(Dataset[Packed]):
    """Maps (epoch, index) to the views of an image in an epoch; a third number replaces the index in the draw's seed.

    `sizes` are the sizes of the views in pixels; if empty, all views have the policy's size.
    """

    def __init__(self, source: Source, policy: Policy, plan: Plan, seed: int, sizes: Sequence[int] = ()):
        self.source, self.policy, self.plan, self.seed = source, policy, plan, seed
        self._policies = [policy.resized(size) for size in sizes]

    def __getitem__(self, key: tuple[int, ...]) -> Packed:
        epoch, index = key[:2]

        def views(picture: Picture) -> Packed:
            height, width = picture.size
            params = self.plan(height, width, seeded(self.seed, epoch, key[-1]))
            rows = params.unbind()
            policies = self._policies or [self.policy] * len(rows)
            # all views are cropped from one decoded image, so the view that needs most detail determines its size
            shrinks = (p.shrink(row, height, width) for p, row in zip(policies, rows, strict=True))
            image, times = picture.shrunk(min(shrinks))
            extent = height / times, width / times
            crops = [p.crop(image, row, extent) for p, row in zip(policies, rows, strict=True)]
            targets = self.source.targets
            target = None if targets is None else targets[index]
            return Packed(_runs(crops), params, torch.tensor(index), torch.tensor((height, width)), target)

        return open_image(self.source, index, views)

    def describe(self, key: tuple[int, ...]) -> str:
        """Returns the origin of the key's image, for messages."""
        return self.source.describe(key[1])


def _runs(crops: list[Tensor]) -> list[Tensor]:
    """Stacks consecutive views of one size: V of (C, S_v, S_v) -> runs of (R, S_v, S_v, C)."""
    runs: list[list[Tensor]] = []
    for crop in (c.permute(1, 2, 0) for c in crops):
        if runs and runs[-1][0].shape == crop.shape:
            runs[-1].append(crop)
        else:
            runs.append([crop])
    return [torch.stack(run) for run in runs]


class StepBatches(Sampler[list[tuple[int, int, int]]]):
    """This process's (epoch, index, draw) lists for a range of steps: the share `rank` of `world` of each global batch.

    Every epoch is a permutation of the data set, cut into steps of `accumulate` batches; the incomplete last step is
    dropped. All epochs form one stream, so that workers persist through the run and a resumed run can start in the
    middle of an epoch. `shared` consecutive images share one draw, that of the first.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        steps: range,
        rank: int = 0,
        world: int = 1,
        shared: int = 1,
    ):
        self.count, self.batch_size, self.accumulate, self.seed = count, batch_size, accumulate, seed
        self.steps, self.rank, self.world, self.shared = steps, rank, world, shared

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        per_epoch, share = self.count // (self.batch_size * self.accumulate), self.batch_size // self.world
        order, current = torch.empty(0), -1
        for step in self.steps:
            epoch, place = divmod(step, per_epoch)
            if epoch != current:
                order, current = torch.randperm(self.count, generator=seeded(self.seed, epoch)), epoch
            for batch in range(place * self.accumulate, (place + 1) * self.accumulate):
                first = batch * self.batch_size + self.rank * share
                images = order[first : first + share].tolist()
                yield [(epoch, index, images[k - k % self.shared]) for k, index in enumerate(images)]


def load_views(dataset: MultiViewDataset, keys: Sequence[Sequence[Any]], workers: int) -> Generator[Packed, None, None]:
    """Yields the batch of each list of (epoch, index); see `load_once`."""
    if workers:
        ready(dataset.source)
    return load_once(dataset, stack, concatenate, keys, workers)


def loader(dataset: MultiViewDataset, batches: StepBatches, workers: int, pin: bool) -> Generator[Packed, None, None]:
    """Yields the batches. Raises DataError, LoadingError."""
    ready(dataset.source)
    return load_batches(Batches(dataset, stack), batches, workers, pin)
