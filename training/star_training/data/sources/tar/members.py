"""The members of a shard: images with their labels by key, and the names of those that are not used."""

import os
import posixpath
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...decode import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from ..base import DataError
from ..layout import named
from .labels import Names, number

_LINKS = 40  # the longest chain of links that is followed, as in Linux


class Sample(NamedTuple):
    """An image with its label."""

    key: str
    offset: int  # bytes from the start of the shard to the image
    size: int  # bytes
    label: int | None  # from KEY.cls
    name: str | None  # of the class, from KEY.txt; None if the sample has a .cls, or its text can't be a name


class _Member(NamedTuple):
    """A regular file of the shard, under its own name or that of a link to it."""

    name: str
    file: tarfile.TarInfo


@dataclass
class LeftOut:
    """The names of the members that are not used."""

    unreadable: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)  # further images of a sample
    links: list[str] = field(default_factory=list)  # links to files outside the shard
    sparse: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)  # images alone
    texts: list[str] = field(default_factory=list)  # unless they are the labels
    labels: list[str] = field(default_factory=list)  # of no image
    others: list[str] = field(default_factory=list)

    def reasons(self) -> Iterator[str]:
        """Yields the names of each kind with the reason."""
        for names, why in (
            (self.unreadable, "not readable here"),
            (self.more, "further images of samples that have one"),
            (self.links, "links to no file in the shard"),
            (self.sparse, "sparse files, not readable here"),
            (self.hidden, "hidden files"),
            (self.texts, "texts that aren't labels"),
            (self.labels, "labels of no image"),
            (self.others, "neither images nor labels"),
        ):
            if names:
                yield f"{named(names)} ({why})"


def index(shard: Path, absent: LeftOut, names: Names) -> list[Sample]:
    """Returns the samples of a shard, and adds its other members to `absent`. Raises DataError."""
    try:
        with tarfile.open(shard, "r:") as tar:
            members = list(tar)
            _check_end(shard, tar.offset)
            images, numbers, texts = _sorted_out(members, absent)
            samples: list[Sample] = []
            used: set[_Member] = set()
            for key, (name, image) in images.items():
                if belongs_to(key, images):
                    absent.more.append(name)
                    continue
                cls, txt = _of_sample(key, numbers), _of_sample(key, texts)
                label = number(shard, tar, cls.name, cls.file) if cls else None
                text = names.read(tar, txt.name, txt.file) if txt and not cls else None
                samples.append(Sample(key, image.offset_data, image.size, label, text))
                used.update(filter(None, (cls, txt)))
            absent.texts += [text.name for text in texts.values() if text in used]
            absent.labels += [label.name for label in (*numbers.values(), *texts.values()) if label not in used]
            return samples
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard} is not a complete, uncompressed tar file: {error}. Copy it again.") from error


def _of_sample(key: str, labels: Mapping[str, _Member]) -> _Member | None:
    return labels.get(key) or labels.get(webdataset_key(key))


def _sorted_out(
    members: Sequence[tarfile.TarInfo], absent: LeftOut
) -> tuple[dict[str, _Member], dict[str, _Member], dict[str, _Member]]:
    """Returns each key's first image, the .cls members and the .txt members by key; adds the rest to `absent`."""
    images: dict[str, _Member] = {}
    labels: dict[str, dict[str, _Member]] = {"cls": {}, "txt": {}}
    by_name: dict[str, tarfile.TarInfo] = {}
    if any(member.islnk() or member.issym() for member in members):
        by_name = {posixpath.normpath(member.name): member for member in members}
    for member in members:
        key, extension = key_and_extension(member.name)
        suffix = f".{extension}"
        if member.isdir():
            continue
        if is_hidden(member.name):
            absent.hidden += [member.name] if suffix in IMAGE_SUFFIXES else []
        elif suffix not in IMAGE_SUFFIXES and extension not in labels:
            (absent.unreadable if suffix in UNREADABLE_SUFFIXES else absent.others).append(member.name)
        elif (file := _followed(member, by_name)) is None or file.issparse():
            (absent.links if file is None else absent.sparse).append(member.name)
        elif extension in labels:
            labels[extension][key] = _Member(member.name, file)
        elif key in images:
            absent.more.append(member.name)
        else:
            images[key] = _Member(member.name, file)
    return images, labels["cls"], labels["txt"]


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


def _check_end(shard: Path, end: int) -> None:
    """Raises ReadError for a truncated shard: tarfile takes a bad header for the end, which is a block of zeros."""
    with open(shard, "rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            size = os.path.getsize(shard)
            raise tarfile.ReadError(f"truncated or damaged at byte {end} of {size}, where the end mark should be")
