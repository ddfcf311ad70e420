"""A `Source` for data sets too large to keep decoded: images are decoded on access, mostly in a loader's worker."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .decode import Picture, UndecodableImage
from .sources.base import DataError, Opens, report_bad
from .sources.raw import Raw, load, picture

T = TypeVar("T")


class StreamedSource(Opens):
    """The images of `raw`, decoded on access; the next good image replaces one that doesn't decode.

    The replacement depends on the data alone, so that a resumed run sees the same images. Workers flag bad images in
    shared memory; `check_bad` reports them in the main process.
    """

    def __init__(self, name: str, raw: Raw, max_bad: float):
        self._raw, self._max_bad = raw, max_bad
        self._flags = torch.zeros(len(raw), dtype=torch.uint8).share_memory_()
        self._reported: set[int] = set()
        self.name, self.fingerprint, self.classes, self.targets = name, raw.fingerprint, raw.classes, raw.targets
        self.inventory = raw.inventory

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: int) -> Tensor:
        return self.open(index, _whole)

    def open(self, index: int, use: Callable[[Picture], T]) -> T:
        """Returns `use(picture)` of the image or of its replacement; see `Opens`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {self.name}, which has {len(self)}")
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            if self._flags[candidate]:
                continue
            try:
                return use(picture(self._raw, candidate))
            except UndecodableImage:
                self._flags[candidate] = 1
        raise DataError(f"none of the {len(self)} images of {self.name} decodes; the first is {self.describe(0)}.")

    def describe(self, index: int) -> str:
        return self._raw.describe(index)

    @property
    def bad(self) -> tuple[int, ...]:
        return tuple(self._flags.nonzero().flatten().tolist())

    def check_bad(self) -> None:
        bad = self.bad
        new = [index for index in bad if index not in self._reported]
        if new:
            self._reported.update(new)
            examples = [f"{self.describe(index)} ({self._reason(index)})" for index in new[:3]]
            report_bad(self.name, examples, len(bad), len(self), self._max_bad)

    def _reason(self, index: int) -> str:
        """Returns why an image doesn't decode, by decoding it again, because the workers' flags hold no text."""
        try:
            load(self._raw, index)
        except UndecodableImage as error:
            return str(error)
        return "it decodes now"


def _whole(image: Picture) -> Tensor:
    return image.shrunk(1)[0]
