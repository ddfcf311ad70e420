"""Views of images, batch by batch: which image, which epoch, which parameters are pure functions of the seed.

Letters: B images on this process, V views of an image, S view size, P parameters, N images of the set.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from star_zoo import Policy, View

from .decode import Picture
from .sources.base import Source, open_image
from .workers import Batches
from .workers import batches as loaded

Plan = Callable[[Policy, int, int, torch.Generator], Tensor]


def seeded(*key: int) -> torch.Generator:
    """A generator that is a pure function of the numbers given, unrelated for different ones."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class MultiViewDataset(Dataset[View]):
    """(epoch, index) -> the views of that image in that epoch: image (V, 3, S, S) uint8, params (V, P).

    Channels are last in memory, as decoders and resizing have them: the axes are turned once, on the device.
    """

    def __init__(self, source: Source, policy: Policy, plan: Plan, seed: int):
        self.source, self.policy, self.plan, self.seed = source, policy, plan, seed

    def __getitem__(self, key: tuple[int, int]) -> View:
        epoch, index = key

        def views(picture: Picture) -> View:
            height, width = picture.size
            params = self.plan(self.policy, height, width, seeded(self.seed, epoch, index))
            # every view is cropped from one decoded image, so the view that needs most detail decides
            rows = params.unbind()
            image, times = picture.shrunk(min(self.policy.shrink(row, height, width) for row in rows))
            extent = height / times, width / times
            crops = [self.policy.crop(image, row, extent).permute(1, 2, 0) for row in rows]
            return View(torch.stack(crops).permute(0, 3, 1, 2), params)

        return open_image(self.source, index, views)

    def describe(self, key: tuple[int, int]) -> str:
        """Returns the place of the key's image, for messages."""
        return self.source.describe(key[1])


class StepBatches(Sampler[list[tuple[int, int]]]):
    """This process's (epoch, index) lists for a range of steps: the share `rank` of `world` of each global batch.

    Every epoch is a permutation of the set, cut into steps of `accumulate` batches; what doesn't fill one is left out.
    All epochs come in one stream, so that workers live through the run and a resumed one starts in mid-epoch.
    """

    def __init__(
        self, count: int, batch_size: int, accumulate: int, seed: int, steps: range, rank: int = 0, world: int = 1
    ):
        self.count, self.batch_size, self.accumulate, self.seed = count, batch_size, accumulate, seed
        self.steps, self.rank, self.world = steps, rank, world

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch, share = self.count // (self.batch_size * self.accumulate), self.batch_size // self.world
        order, current = torch.empty(0), -1
        for step in self.steps:
            epoch, place = divmod(step, per_epoch)
            if epoch != current:
                order, current = torch.randperm(self.count, generator=seeded(self.seed, epoch)), epoch
            for batch in range(place * self.accumulate, (place + 1) * self.accumulate):
                first = batch * self.batch_size + self.rank * share
                yield [(epoch, index) for index in order[first : first + share].tolist()]


def loader(dataset: MultiViewDataset, batches: StepBatches, workers: int, pin: bool) -> Generator[View, None, None]:
    """Yields the batches: image (B, V, 3, S, S) uint8, params (B, V, P). Raises DataError, LoadingError."""
    return loaded(Batches(dataset, _collate), batches, workers, pin)


def _collate(views: list[View]) -> View:
    images = default_collate([view.image.permute(0, 2, 3, 1) for view in views])
    return View(images.permute(0, 1, 4, 2, 3), default_collate([view.params for view in views]))
