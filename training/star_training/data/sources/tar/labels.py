"""The labels of a shard's images: integers in .cls members, or names of classes in .txt members."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from ..base import DataError

_NUMBER = 100  # bytes of a .cls member, at most
_NAME = 200  # bytes of a class's name, at most; the longest of ImageNet-21k has 175
_FEW = 100  # up to so many classes may have a single image each, if one of them has two


def number(shard: Path, tar: tarfile.TarFile, name: str, member: tarfile.TarInfo) -> int:
    """Returns the integer in a .cls member. Raises DataError."""
    text = _read(tar, member, _NUMBER)
    try:
        if member.size > _NUMBER:
            raise ValueError
        return int(text)
    except ValueError:
        raise DataError(f"{name} in {shard} holds {text[:40]!r}; a .cls member must hold one integer.") from None


class Names:
    """Reads .txt members, until one of them can't be the name of a class, because all are captions then.

    So the long texts of image-text data are not read.
    """

    captions = ""  # why they can't be names

    def read(self, tar: tarfile.TarFile, name: str, member: tarfile.TarInfo) -> str | None:
        """Returns the text of a member without the space around it; None if it is empty or can't be a name."""
        if self.captions:
            return None
        if member.size > _NAME:
            self.captions = f"{name} has {member.size:,} bytes"
            return None
        try:
            text = _read(tar, member, _NAME).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            self.captions = f"{name} isn't UTF-8"
            return None
        if len(text.splitlines()) > 1:
            self.captions = f"{name} has several lines"
            return None
        return text or None


def classes_of(texts: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Returns the sorted classes that the texts of all images name, and the reason if they are captions.

    Captions are as many different texts as images, or more than 100 and more than half as many.
    """
    classes = tuple(sorted(set(texts)))
    if len(classes) == len(texts) or len(classes) > max(_FEW, len(texts) / 2):
        return classes, f"there are {len(classes):,} different ones for {len(texts):,} images"
    return classes, ""


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    file = tar.extractfile(member)
    return file.read(most) if file else b""
