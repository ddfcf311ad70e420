"""A `Source` for data sets that fit in memory: every image is decoded once, before training."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..messages import busy
from .decode import UndecodableImage
from .sources.base import DataError, now_bad, report_bad
from .sources.raw import Raw, Subset, load
from .threads import in_threads
from .tried import note_decoded_bytes, note_undecodable, undecodable

_ALIGNED = 4  # bytes; a float32 must begin at a multiple
_BLOCK = 32  # images decoded per task: submitting small images one by one costs more than decoding them
_TASK = 2**24  # decoded bytes per task if the images are as large as expected, and four times that at most
_LARGE = 3 * 2**20  # bytes of a decoded image: larger ones are decoded on access, mostly at a smaller size


class TooLarge(DataError):
    """The images need more memory than was expected from a sample of them."""


def fits(decoded_bytes: int, count: int, most: int) -> bool:
    """Returns whether so many images of so many bytes in all are to be held decoded, in at most `most` bytes."""
    return decoded_bytes <= min(most, _LARGE * count)


class CachedSource:
    """The decodable images of `raw` in one buffer of bytes, whose pages forked workers share.

    Undecodable images are left out with one `BadImageWarning`. Raises DataError if their fraction exceeds `max_bad`.
    `expected` is the expected size of the buffer in bytes, which avoids growing it, and `most` is its limit. The images
    are decoded here, or by the first access to one if an earlier process has found out which decode; `reopen` then
    opens the files again. Raises TooLarge above the limit, which is known to later processes.
    """

    def __init__(self, name: str, raw: Raw, max_bad: float, expected: int, most: int, reopen: Callable[[], Raw]):
        self.name, self._expected, self._most, self._reopen = name, expected, most, reopen
        self._opened = raw.fingerprint
        reasons = self._still_bad(raw)
        if reasons is None:
            reasons = {}
            self._images = self._packed(raw, reasons)
            note_undecodable(self._opened, reasons)
        if reasons:
            examples = [f"{raw.describe(index)} ({reason})" for index, reason in list(reasons.items())[:3]]
            report_bad(name, examples, len(reasons), len(raw), max_bad)
            raw = Subset(raw, torch.tensor([index for index in range(len(raw)) if index not in reasons]))
        self._raw = raw
        self.fingerprint, self.classes, self.targets = raw.fingerprint, raw.classes, raw.targets
        self.inventory = raw.inventory

    @functools.cached_property
    def _images(self) -> "_Images":
        if self._reopen().fingerprint != self._opened:
            raise DataError(f"{self.name} changed while it was in use; start again.")
        return self._decoded()

    def decode(self) -> None:
        """Decodes the images, unless they are decoded; only for files that were opened just now."""
        if "_images" not in vars(self):
            self._images = self._decoded()

    def _decoded(self) -> "_Images":
        reasons: dict[int, str] = {}
        images = self._packed(self._raw, reasons)
        if reasons:
            (first, reason), *_ = reasons.items()
            raise now_bad(self.name, len(reasons), f"{self.describe(first)} ({reason})")
        return images

    def _packed(self, raw: Raw, reasons: dict[int, str]) -> "_Images":
        block = max(1, min(_BLOCK, _TASK * len(raw) // max(1, self._expected)))
        reached = 0

        def counted() -> Iterator[Tensor]:
            nonlocal reached
            for image in _decoded(raw, reasons, block):
                reached += 1
                yield image

        try:
            with busy(lambda: f"decoding {self.name}: {reached:,} of {len(raw):,} images"):
                return _packed(counted(), self._expected, self._most)
        except TooLarge:
            note_decoded_bytes(self._opened, max(self._most, _LARGE * len(raw)) + 1)
            raise TooLarge(
                f"the images of {self.name} are larger than expected from a sample and don't fit into the memory for "
                "decoded images; start again, and they are decoded one by one"
            ) from None

    def _still_bad(self, raw: Raw) -> dict[int, str] | None:
        """Returns why each image that is known not to decode doesn't, trying those alone; None if none were tried."""
        known = undecodable(self._opened)
        if not known:
            return None if known is None else {}
        reasons: dict[int, str] = {}
        for _ in _decoded(Subset(raw, torch.tensor(known)), reasons, 1):
            return None  # an image that does decode
        return {known[place]: reason for place, reason in reasons.items()}

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]

    def describe(self, index: int) -> str:
        return self._raw.describe(index)

    @property
    def bad(self) -> tuple[int, ...]:
        return ()  # bad images are not in the source

    def check_bad(self) -> None:
        pass  # the constructor has reported them


@dataclass(frozen=True)
class _Images:
    """Images one after another in memory, each (H, W, C), of uint8 or float32."""

    buffer: Tensor  # (bytes,) uint8
    offsets: Tensor  # (N,) int64, multiples of 4
    sizes: Tensor  # (N, 4) int64: height, width, channels and bytes of a value

    def __getitem__(self, index: int) -> Tensor:
        offset = int(self.offsets[index])
        height, width, channels, each = self.sizes[index].tolist()
        values = self.buffer[offset : offset + channels * height * width * each]
        values = values.view(torch.float32) if each == 4 else values
        return values.view(height, width, channels).permute(2, 0, 1)


def _decoded(raw: Raw, reasons: dict[int, str], block: int) -> Iterator[Tensor]:
    """Yields the decodable images in order, decoded `block` at once; stores why the others don't decode."""
    for images in in_threads(lambda indices: _load_block(raw, indices), len(raw), block):
        for index, image in images:
            if isinstance(image, Tensor):
                yield image
            else:
                reasons[index] = image


def _load_block(raw: Raw, indices: range) -> list[tuple[int, Tensor | str]]:
    """Returns each index with its image, or with the reason why it doesn't decode. Raises TooLarge."""
    block: list[tuple[int, Tensor | str]] = []
    size = 0
    for index in indices:
        try:
            image = load(raw, index)
        except UndecodableImage as error:
            block.append((index, str(error)))
            continue
        size += image.nbytes
        if size > 4 * _TASK:
            raise TooLarge
        block.append((index, image))
    return block


def _packed(images: Iterable[Tensor], expected_bytes: int, most: int) -> _Images:
    buffer = torch.empty(expected_bytes, dtype=torch.uint8)
    offsets, sizes, end = [], [], 0
    for image in images:
        start = end if image.dtype == torch.uint8 else -(-end // _ALIGNED) * _ALIGNED
        end = start + image.nbytes
        if end > most:
            raise TooLarge
        if end > len(buffer):
            buffer = torch.cat([buffer, torch.empty(max(end // 4, end - start + _ALIGNED), dtype=torch.uint8)])
        pixels = image.permute(1, 2, 0).numpy()
        buffer.numpy()[start:end] = pixels.ravel().view(np.uint8)  # as decoded, without threads
        offsets.append(start)
        sizes.append((*pixels.shape, pixels.itemsize))
    return _Images(buffer, torch.tensor(offsets), torch.tensor(sizes))
