"""Sources made from a source: a part of its images, or the same images with classes that are numbered anew."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ..decode import Picture
from .base import DataError, Opens, Source, decodes_on_access, open_image
from .raw import are_ids, digest, evenly_spaced

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


class Numbered(Part):
    """A source whose labels are the places of its ids in `ids` (C,), sorted and without duplicates: 0 to C - 1.

    The classes' names are those of the ids, or the ids as text.
    """

    def __init__(self, source: Source, ids: Tensor):
        super().__init__(source, torch.arange(len(source)))
        assert source.targets is not None
        names = source.classes or ()
        self.targets = torch.searchsorted(ids, source.targets)
        self.classes = tuple(names[label] if label < len(names) else str(label) for label in ids.tolist())
        self.fingerprint = source.fingerprint
        self.inventory = replace(source.inventory, notes=(*source.inventory.notes, *_note(ids)))


def _note(ids: Tensor) -> tuple[str, ...]:
    return (f"its labels are ids up to {ids[-1]:,}, numbered 0 to {len(ids) - 1:,} in their order",)


def note_of_ids(source: Source) -> tuple[str, ...]:
    """Returns a note if the labels of a source are sparse ids, which every evaluation numbers, else nothing."""
    if not _has_classes(source) or source.targets is None:
        return ()
    ids = source.targets.unique()
    return _note(ids) if len(ids) and are_ids(int(ids[-1]), len(ids), len(source.classes or ())) else ()


def numbered(*sources: Source) -> tuple[Source, ...]:
    """Returns the splits of a data set with classes numbered from 0, if their labels are sparse ids.

    Otherwise a classifier, which has an output for each number up to the largest label, would hardly use any. Splits
    without classes are returned as they are.
    """
    of_classes = {id(source): source for source in sources if _has_classes(source)}
    if not of_classes:
        return sources
    ids = torch.cat([source.targets for source in of_classes.values() if source.targets is not None]).unique()
    named = max(len(source.classes or ()) for source in of_classes.values())
    if not len(ids) or not are_ids(int(ids[-1]), len(ids), named):
        return sources
    renumbered = {key: Numbered(source, ids) for key, source in of_classes.items()}
    return tuple(renumbered.get(id(source), source) for source in sources)


def _has_classes(source: Source) -> bool:
    return source.targets is not None and not source.targets.is_floating_point()


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
