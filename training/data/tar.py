"""WebDataset shards: tar files in which the members of one sample share a key.

The headers are read once to learn where each image lies; then every image is read by offset. That is random access,
so an interrupted run resumes at exactly the next image, and it needs no open file that forked workers would share.
"""

import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .contents import fingerprint, of_files
from .decode import IMAGE_SUFFIXES
from .raw import as_targets, choose_split, files_by_split
from .source import DataError


class _Sample(NamedTuple):
    key: str
    offset: int  # bytes from the start of the shard to those of the image
    size: int  # bytes
    label: int | None


@dataclass(frozen=True)
class TarImages:
    """The images in some shards; see `open_tar`."""

    shards: tuple[Path, ...]
    keys: tuple[str, ...]
    places: Tensor  # (N, 3) int64: number of the shard, offset, size
    fingerprint: str
    targets: Tensor | None
    classes: None = None  # shards don't hold names

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)

    def describe(self, index: int) -> str:
        return f"{self.keys[index]} in {self.shards[int(self.places[index, 0])]}"


def open_tar(shards: Sequence[Path], split: str) -> TarImages:
    """The images of one split of some shards. Raises DataError.

    An image is a member `KEY.jpg` (or .png, ...), its label an integer in `KEY.cls`; all or none count.
    The names of the shards may begin with the split, `train-0000.tar`; failing that all is "train".
    """
    by_name = files_by_split(shards)
    chosen = by_name[choose_split(split, by_name, str(shards[0].parent))]
    samples = [(number, sample) for number, shard in enumerate(chosen) for sample in _index(shard)]
    if not samples:
        raise DataError(f"no images found in {chosen[0]}; expected members such as 'KEY.jpg', without another dot.")
    places = torch.tensor([(number, sample.offset, sample.size) for number, sample in samples])
    names = [shard.name for shard in chosen]
    targets = as_targets([sample.label for _, sample in samples])
    return TarImages(
        shards=tuple(chosen),
        keys=tuple(sample.key for _, sample in samples),
        places=places,
        fingerprint=fingerprint("tar", names, of_files(chosen), classes=None, targets=targets),
        targets=targets,
    )


def expand_braces(pattern: str) -> list[str]:
    """`shard-{0000..0003}.tar` and `{train,extra}.tar` spelt out, in order; leading zeros are kept."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if bounds:
        first, last = bounds.groups()
        inner = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        inner = match[1].split(",")
    tails = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + middle + tail for middle in inner for tail in tails]


def _index(shard: Path) -> list[_Sample]:
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, extension = key_and_extension(member.name)
                if not member.isreg() or member.issparse():
                    continue
                if f".{extension}" in IMAGE_SUFFIXES:
                    images.setdefault(key, member)
                elif extension == "cls":
                    labels[key] = _label(shard, tar, member)
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard} is not a whole, uncompressed tar file: {error}. Copy or write it again.") from error
    return [_Sample(key, image.offset_data, image.size, labels.get(key)) for key, image in images.items()]


def key_and_extension(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key is the path up to the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _label(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = tar.extractfile(member)
    text = file.read() if file else b""
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{member.name} in {shard} holds {text[:40]!r}; a .cls member must hold one integer.") from None


def _check_end(shard: Path, end: int) -> None:
    """tarfile takes a cut or damaged header for the end of the archive; a whole one ends in blocks of zeros."""
    with open(shard, "rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            size = os.path.getsize(shard)
            raise tarfile.ReadError(f"cut or damaged at byte {end} of {size}, where the end mark should be")
