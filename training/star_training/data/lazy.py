"""A `Source` for sets too big to keep decoded: an image is decoded when asked for, mostly in a loader's worker."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .decode import Picture, UndecodableImage
from .sources.base import DataError, Opens, report_bad
from .sources.raw import Raw, load, picture

T = TypeVar("T")


class StreamedSource(Opens):
    """The images of `raw`, decoded on access; the next good image stands in for one that doesn't decode.

    Which image stands in depends on the data alone, so that a resumed run sees the same ones. What a worker finds bad
    is flagged in shared memory; `check_bad` in the main process tells the user.
    """

    def __init__(self, name: str, raw: Raw, max_bad: float):
        self._raw, self._max_bad = raw, max_bad
        self._flags = torch.zeros(len(raw), dtype=torch.uint8).share_memory_()
        self._told: set[int] = set()
        self.name, self.fingerprint, self.classes, self.targets = name, raw.fingerprint, raw.classes, raw.targets
        self.inventory = raw.inventory

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: int) -> Tensor:
        return self.open(index, _whole)

    def open(self, index: int, use: Callable[[Picture], T]) -> T:
        """What `use` makes of the image, or of the one that stands in for it: see `Opens`."""
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
        new = [index for index in bad if index not in self._told]
        if new:
            self._told.update(new)
            examples = [f"{self.describe(index)} ({self._reason(index)})" for index in new[:3]]
            report_bad(self.name, examples, len(bad), len(self), self._max_bad)

    def _reason(self, index: int) -> str:
        """Why an image doesn't decode: flags carry no text from the workers, so it is tried once more."""
        try:
            load(self._raw, index)
        except UndecodableImage as error:
            return str(error)
        return "it does now"


def _whole(image: Picture) -> Tensor:
    return image.shrunk(1)[0]
