"""A `Source` for sets that fit in memory: every image is decoded once, before training."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .decode import UndecodableImage
from .sources.base import report_bad
from .sources.raw import Raw, Subset, load
from .threads import in_threads

_BLOCK = 32  # images that a thread decodes in one go: handing over small ones singly costs more than decoding them


class CachedSource:
    """The images of `raw` that decode, side by side in one uint8 buffer; forked workers share its pages.

    Images that don't decode are left out, with one `BadImageWarning`; DataError above the fraction `max_bad`.
    `decoded_bytes` is an estimate of the whole, which saves growing the buffer.
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
        return ()  # they are no part of the source

    def check_bad(self) -> None:
        pass  # already told


def _decoded(raw: Raw, reasons: dict[int, str]) -> Iterator[Tensor]:
    """The images that decode, in order; why the others don't goes to `reasons`."""
    for block in in_threads(lambda indices: _load_block(raw, indices), len(raw), _BLOCK):
        for index, image in block:
            if isinstance(image, Tensor):
                yield image
            else:
                reasons[index] = image


def _load_block(raw: Raw, indices: range) -> list[tuple[int, Tensor | str]]:
    """Each index with its image, or with the reason why there is none."""
    block: list[tuple[int, Tensor | str]] = []
    for index in indices:
        try:
            block.append((index, load(raw, index)))
        except UndecodableImage as error:
            block.append((index, str(error)))
    return block


def _packed(images: Iterable[Tensor], expected_bytes: int) -> tuple[Tensor, Tensor, Tensor]:
    """One buffer (bytes,) uint8, where each image starts (N,) int64, and its height and width (N, 2) int64."""
    buffer = torch.empty(expected_bytes, dtype=torch.uint8)
    offsets, sizes, end = [], [], 0
    for image in images:
        start, end = end, end + image.numel()
        if end > len(buffer):
            buffer = torch.cat([buffer, torch.empty(max(end // 4, image.numel()), dtype=torch.uint8)])
        buffer.numpy()[start:end] = image.permute(1, 2, 0).numpy().ravel()  # as decoded: NumPy copies without threads
        offsets.append(start)
        sizes.append(image.shape[1:])
    return buffer, torch.tensor(offsets), torch.tensor(sizes)
