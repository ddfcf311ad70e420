"""Subsets of a source, as sources of their own."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..decode import Picture
from .base import DataError, Opens, Source, decodes_on_access, open_image
from .raw import digest, evenly_spaced

T = TypeVar("T")


class Part(Opens):
    """The images of `source` at the given indices (n,), in their order."""

    def __init__(self, source: Source, indices: Tensor):
        self._source, self._indices = source, indices.tolist()
        self.decodes = decodes_on_access(source)
        self.name, self.classes, self.inventory = source.name, source.classes, source.inventory
        self.fingerprint = digest([source.fingerprint, indices.numpy().tobytes()])
        self.targets = None if source.targets is None else source.targets[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Tensor:
        return self._source[self._indices[index]]

    def open(self, index: int, use: Callable[[Picture], T]) -> T:
        """Returns `use(picture)` of image `index`; see `Opens`."""
        return open_image(self._source, self._indices[index], use)

    def describe(self, index: int) -> str:
        """Returns the origin of image `index`, for messages."""
        return self._source.describe(self._indices[index])

    @property
    def bad(self) -> tuple[int, ...]:
        """Indices that failed to decode so far."""
        known = set(self._source.bad)
        return tuple(i for i, index in enumerate(self._indices) if index in known)

    def check_bad(self) -> None:
        """Warns of new bad images of the whole source. Raises DataError above its `max_bad`."""
        self._source.check_bad()


def spread(source: Source, count: int) -> Source:
    """Returns at most `count` images, evenly spaced over the source."""
    if len(source) <= count:
        return source
    return Part(source, evenly_spaced(len(source), count))


def hold_out(source: Source, share: float, generator: torch.Generator) -> tuple[Source, Source]:
    """Returns the remaining images and a random `share` of them (at least one) that is held out."""
    order = torch.randperm(len(source), generator=generator)
    held = max(1, round(share * len(source)))
    return Part(source, order[held:].sort().values), Part(source, order[:held].sort().values)


def hold_out_by_class(source: Source, share: float) -> tuple[Source, Source]:
    """Returns the remaining images and a `share` of each class that is held out, always the same images.

    A class of at least two images has one or more in both parts; a single image is not held out. Images without
    classes count as one class. Raises DataError if nothing can be held out.
    """
    classes = source.targets
    if classes is None or classes.is_floating_point():
        classes = torch.zeros(len(source), dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    held = torch.zeros(len(source), dtype=torch.bool)
    for label in classes.unique():
        images = (classes == label).nonzero()[:, 0]
        count = max(1, round(share * len(images))) if len(images) > 1 else 0
        held[images[torch.randperm(len(images), generator=generator)[:count]]] = True
    if not held.any():
        raise DataError(f"no class of {source.name} has two images, one to train and one to test on; pass more images.")
    return Part(source, (~held).nonzero()[:, 0]), Part(source, held.nonzero()[:, 0])
