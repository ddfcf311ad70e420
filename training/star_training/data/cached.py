"""A `Source` for data sets that fit in memory: every image is decoded once, before training."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .decode import UndecodableImage
from .sources.base import report_bad
from .sources.raw import Raw, Subset, load
from .threads import in_threads

_BLOCK = 32  # images decoded per task: submitting small images one by one costs more than decoding them


class CachedSource:
    """The decodable images of `raw` in one uint8 buffer, whose pages forked workers share.

    Undecodable images are left out with one `BadImageWarning`. Raises DataError if their fraction exceeds `max_bad`.
    `decoded_bytes` is the expected size of the buffer, which avoids growing it.
    """

    def __init__(self, name: str, raw: Raw, max_bad: float, decoded_bytes: int):
        reasons: dict[int, str] = {}
        images = _decoded(raw, reasons)
        self._buffer, self._offsets, self._sizes = _packed(images, decoded_bytes)
        if reasons:
            examples = [f"{raw.describe(index)} ({reason})" for index, reason in list(reasons.items())[:3]]
            report_bad(name, examples, len(reasons), len(raw), max_bad)
            raw = Subset(raw, torch.tensor([index for index in range(len(raw)) if index not in reasons]))
        self._raw = raw
        self.name, self.fingerprint, self.classes, self.targets = name, raw.fingerprint, raw.classes, raw.targets
        self.inventory = raw.inventory

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Tensor:
        offset = int(self._offsets[index])
        height, width = self._sizes[index].tolist()
        return self._buffer[offset : offset + 3 * height * width].view(height, width, 3).permute(2, 0, 1)

    def describe(self, index: int) -> str:
        return self._raw.describe(index)

    @property
    def bad(self) -> tuple[int, ...]:
        return ()  # bad images are not in the source

    def check_bad(self) -> None:
        pass  # the constructor has reported them


def _decoded(raw: Raw, reasons: dict[int, str]) -> Iterator[Tensor]:
    """Yields the decodable images in order; stores in `reasons` why the others don't decode."""
    for block in in_threads(lambda indices: _load_block(raw, indices), len(raw), _BLOCK):
        for index, image in block:
            if isinstance(image, Tensor):
                yield image
            else:
                reasons[index] = image


def _load_block(raw: Raw, indices: range) -> list[tuple[int, Tensor | str]]:
    """Returns each index with its image, or with the reason why it doesn't decode."""
    block: list[tuple[int, Tensor | str]] = []
    for index in indices:
        try:
            block.append((index, load(raw, index)))
        except UndecodableImage as error:
            block.append((index, str(error)))
    return block


def _packed(images: Iterable[Tensor], expected_bytes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns one buffer (bytes,) uint8, each image's offset (N,) int64, and its height and width (N, 2) int64."""
    buffer = torch.empty(expected_bytes, dtype=torch.uint8)
    offsets, sizes, end = [], [], 0
    for image in images:
        start, end = end, end + image.numel()
        if end > len(buffer):
            buffer = torch.cat([buffer, torch.empty(max(end // 4, image.numel()), dtype=torch.uint8)])
        buffer.numpy()[start:end] = image.permute(1, 2, 0).numpy().ravel()  # as decoded, without threads
        offsets.append(start)
        sizes.append(image.shape[1:])
    return buffer, torch.tensor(offsets), torch.tensor(sizes)
