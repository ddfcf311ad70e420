"""WebDataset shards: tar files in which the members of one sample share a key.

The headers are read once to locate each image; then images are read by offset. With random access, an interrupted run
resumes at exactly the next image, and forked workers share no open file.
"""

import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..contents import fingerprint, of_files
from ..decode import IMAGE_SUFFIXES, MOST_ENCODED, UNREADABLE_SUFFIXES, UndecodableImage
from ..split_names import choose_split
from .base import DataError, Inventory
from .raw import as_targets

_LABEL = 100  # bytes of a label, at most
_LINKS = 40  # the longest chain of links that is followed, as in Linux


class _Sample(NamedTuple):
    key: str
    offset: int  # bytes from the start of the shard to the image
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
    inventory: Inventory
    classes: None = None  # shards don't hold names

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        if size > MOST_ENCODED:
            raise UndecodableImage(f"{size:,} bytes, more than an image may have, {MOST_ENCODED:,}")
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)

    def describe(self, index: int) -> str:
        return f"{self.keys[index]} in {self.shards[int(self.places[index, 0])]}"


@dataclass
class _LeftOut:
    """Members of the shards that are not used although they could be images."""

    more: list[str] = field(default_factory=list)  # further images of a sample
    links: list[str] = field(default_factory=list)  # links to files outside the shard
    sparse: list[str] = field(default_factory=list)
    unreadable: Counter[str] = field(default_factory=Counter)  # by suffix

    def reasons(self) -> Iterator[str]:
        """Yields each kind with the reason."""
        for suffix, count in sorted(self.unreadable.items()):
            yield f"{count:,} {suffix} file{'s' * (count > 1)} (not readable here)"
        for names, kind, why in (
            (self.more, "further image", "of samples that have one"),
            (self.links, "link", "to no file in the shard"),
            (self.sparse, "sparse file", "not readable here"),
        ):
            if names:
                yield f"{len(names):,} {kind}{'s' * (len(names) > 1)} ({why}), e.g. {names[0]}"


def open_tar(groups: Mapping[str, Sequence[Path]], split: str) -> TarImages:
    """Opens one split of the shards in `groups`, which maps splits to shards. Raises DataError.

    An image is a member whose last extension is an image's, `KEY.jpg`, or a link to one in the same shard; KEY may
    contain dots. Only the first image of a sample is used: `KEY.seg.png` belongs to the sample of `KEY.jpg` if that
    exists, and otherwise is an image of its own. The label is an integer in `KEY.cls`, or in the `.cls` member of KEY
    cut at its first dot; unless all images have a label, all are unlabelled.
    """
    where = str(next(iter(groups.values()))[0].parent)
    name = choose_split(split, groups, where)
    chosen, absent = groups[name], _LeftOut()
    samples = [(number, sample) for number, shard in enumerate(chosen) for sample in _index(shard, absent)]
    if not samples:
        reasons = f" Left out: {'; '.join(absent.reasons())}." if any(absent.reasons()) else ""
        raise DataError(f"no images found in {chosen[0]}; expected members such as 'KEY.jpg'.{reasons}")
    places = torch.tensor([(number, sample.offset, sample.size) for number, sample in samples])
    names = [shard.name for shard in chosen]
    unlabelled = [sample.key for _, sample in samples if sample.label is None]
    targets, why = as_targets([sample.label for _, sample in samples])
    if unlabelled:
        lacking = f"{len(unlabelled):,} of {len(samples):,} images have no .cls, the first is {unlabelled[0]}"
        why = lacking if len(unlabelled) < len(samples) else "no image has a .cls"
    counts = {group: len(samples) if group == name else None for group in groups}
    return TarImages(
        shards=tuple(chosen),
        keys=tuple(sample.key for _, sample in samples),
        places=places,
        fingerprint=fingerprint("tar", names, of_files(chosen), classes=None, targets=targets),
        targets=targets,
        inventory=Inventory(counts, _together(samples), tuple(absent.reasons()), why),
    )


def _together(samples: Sequence[tuple[int, _Sample]]) -> tuple[str, ...]:
    """Returns a note if images would be one sample in WebDataset, where a key ends at the first dot."""
    keys = Counter((shard, webdataset_key(sample.key)) for shard, sample in samples)
    shared = [sample.key for shard, sample in samples if keys[shard, webdataset_key(sample.key)] > 1]
    if not shared:
        return ()
    images = f"{len(shared):,} images share their name up to its first dot, e.g. {shared[0]} and {shared[1]}"
    return (f"{images}: each counts as an image",)


def expand_braces(pattern: str) -> list[str]:
    """Returns the names that `shard-{0000..0003}.tar` or `{train,extra}.tar` expands to; leading zeros are kept."""
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


def _index(shard: Path, absent: _LeftOut) -> list[_Sample]:
    try:
        with tarfile.open(shard, "r:") as tar:
            members = list(tar)
            _check_end(shard, tar.offset)
            images, labels = _sorted_out(members, absent)
            samples = []
            for key, (name, image) in images.items():
                if belongs_to(key, images):
                    absent.more.append(name)
                    continue
                label = labels.get(key) or labels.get(webdataset_key(key))
                number = None if label is None else _label(shard, tar, label)
                samples.append(_Sample(key, image.offset_data, image.size, number))
            return samples
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard} is not a complete, uncompressed tar file: {error}. Copy it again.") from error


def _sorted_out(
    members: Sequence[tarfile.TarInfo], absent: _LeftOut
) -> tuple[dict[str, tuple[str, tarfile.TarInfo]], dict[str, tarfile.TarInfo]]:
    """Returns each key's first image, with the name of its member, and the labels by key; adds the rest to `absent`."""
    images: dict[str, tuple[str, tarfile.TarInfo]] = {}
    labels: dict[str, tarfile.TarInfo] = {}
    by_name: dict[str, tarfile.TarInfo] = {}
    if any(member.islnk() or member.issym() for member in members):
        by_name = {posixpath.normpath(member.name): member for member in members}
    for member in members:
        key, extension = key_and_extension(member.name)
        suffix = f".{extension}"
        if member.isdir() or is_hidden(member.name) or suffix not in IMAGE_SUFFIXES | _OTHERS:
            continue
        file = _followed(member, by_name)
        if file is None or file.issparse():
            (absent.links if file is None else absent.sparse).append(member.name)
        elif extension == "cls":
            labels[key] = file
        elif suffix in UNREADABLE_SUFFIXES:
            absent.unreadable[suffix] += 1
        elif key in images:
            absent.more.append(member.name)
        else:
            images[key] = member.name, file
    return images, labels


_OTHERS = UNREADABLE_SUFFIXES | {".cls"}  # suffixes of members that are examined, beside those of images


def _followed(member: tarfile.TarInfo, by_name: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """Returns the regular file that a member is or links to in the shard, or None."""
    for _ in range(_LINKS):
        if member.isreg():
            return member
        if not (member.islnk() or member.issym()):
            return None
        folder = posixpath.dirname(member.name) if member.issym() else ""  # hard links are relative to the top
        target = by_name.get(posixpath.normpath(posixpath.join(folder, member.linkname)))
        if target is None:
            return None
        member = target
    return None  # a cycle


def key_and_extension(name: str) -> tuple[str, str]:
    """Returns the key of a member's sample, and the text after the last dot of its file name in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.rpartition(".")
    return (folder + slash + stem, extension.lower()) if dot else (name, "")


def webdataset_key(key: str) -> str:
    """Returns the key cut at the first dot of its file name, which is WebDataset's key."""
    folder, slash, base = key.rpartition("/")
    return folder + slash + base.partition(".")[0]


def belongs_to(key: str, keys: Collection[str]) -> bool:
    """Whether an image belongs to another image's sample, e.g. `a.seg` to `a`: the key cut at a dot is in `keys`."""
    shortest = len(webdataset_key(key))
    while (dot := key.rfind(".")) >= shortest:
        key = key[:dot]
        if key in keys:
            return True
    return False


def is_hidden(name: str) -> bool:
    """Whether a member is a hidden file, e.g. `._a.jpg`, or one that macOS adds to archives."""
    *folders, base = name.split("/")
    return base.startswith(".") or "__MACOSX" in folders


def _label(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = tar.extractfile(member)
    text = file.read(_LABEL) if file else b""
    try:
        if member.size > _LABEL:
            raise ValueError
        return int(text)
    except ValueError:
        raise DataError(f"{member.name} in {shard} holds {text[:40]!r}; a .cls member must hold one integer.") from None


def _check_end(shard: Path, end: int) -> None:
    """Raises ReadError for a truncated shard: tarfile takes a bad header for the end, which is a block of zeros."""
    with open(shard, "rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            size = os.path.getsize(shard)
            raise tarfile.ReadError(f"truncated or damaged at byte {end} of {size}, where the end mark should be")
