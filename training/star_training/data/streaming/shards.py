"""Shards that are read from front to back: tar files on a disk or behind a URL. Letter: S shards."""

import http.client
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ..contents import of_files
from ..decode import IMAGE_SUFFIXES
from ..sources.base import DataError
from ..sources.raw import digest
from ..sources.tar import belongs_to, is_hidden, key_and_extension, webdataset_key

PAUSES = (1.0, 10.0, 60.0)  # seconds before a shard that broke off is tried once more
_SILENCE = 60.0  # seconds after which a server that sends nothing has broken off
_HELD = 16  # images of one sample that wait for the one that it is named after
_TRY_LATER = (408, 429)  # of the codes that blame the request, those that don't mean it


class Encoded(NamedTuple):
    """An image as it lies in a shard."""

    where: str  # it came from, for messages
    data: bytes


class Shards(Protocol):
    """The shards of one data set, S of them, in a fixed order; safe to read in forked workers."""

    @property
    def fingerprint(self) -> str:
        """Short hex that changes with the shards, as far as their kind can tell without a download."""

    def __len__(self) -> int: ...

    def read(self, shard: int) -> Iterator[Encoded]:
        """The images of one shard, always in the same order. Raises DataError where it can't be read."""


@dataclass(frozen=True)
class TarShards:
    """WebDataset shards, each a path or an http(s) URL; of a sample nothing but its first image is looked at."""

    names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """That of the shards' names and of the contents of those on this machine; what a URL leads to isn't read."""
        names = [without_query(name) if is_remote(name) else os.path.basename(name) for name in self.names]
        local = [Path(name) for name in self.names if not is_remote(name)]
        return digest(["tar stream", *names, of_files(local)])

    def __len__(self) -> int:
        return len(self.names)

    def read(self, shard: int) -> Iterator[Encoded]:
        """The images in the order of the file; one that breaks off is read anew up to there."""
        name = self.names[shard]
        return persistent(lambda: _images(name), without_query(name))


def is_remote(name: str) -> bool:
    """Whether a shard's name is an http(s) URL."""
    return name.startswith(("http://", "https://"))


def without_query(name: str) -> str:
    """A name to show: what follows the question mark of a URL may be a password."""
    return urlsplit(name)._replace(query="", fragment="").geturl() if is_remote(name) else name


def persistent(read: Callable[[], Iterator[Encoded]], name: str) -> Iterator[Encoded]:
    """What `read()` gives; where it breaks off, it is called anew after a pause and what was given is left out.

    Raises DataError when every try broke off.
    """
    given = 0
    for pause in (*PAUSES, None):
        try:
            for image in islice(read(), given, None):
                given += 1
                yield image
            return
        except (OSError, http.client.HTTPException) as error:
            if pause is None:
                raise DataError(
                    f"{name} can't be read ({str(error) or type(error).__name__}) and was tried {len(PAUSES) + 1} "
                    "times; see that it is there and whole, then go on with --resume."
                ) from error
            time.sleep(pause)


def _images(name: str) -> Iterator[Encoded]:
    """The images of a tar file by the rules of `open_tar`, with the members of a sample side by side.

    Only up to 16 images wait for the one that their sample is named after, so that memory stays bounded. A link can't
    be followed in a stream: it counts as an image that doesn't decode.
    """
    sample = _Sample("")
    try:
        with _opened(name) as file, tarfile.open(fileobj=file, mode="r|", tarinfo=_Strict) as tar:
            while (member := tar.next()) is not None:
                key, extension = key_and_extension(member.name)
                if webdataset_key(key) != sample.name:
                    yield from sample.held.values()
                    sample = _Sample(webdataset_key(key))
                link = member.islnk() or member.issym()
                read = link or (member.isreg() and not member.issparse())
                if read and f".{extension}" in IMAGE_SUFFIXES and not is_hidden(member.name) and sample.wants(key):
                    where = f"{key} in {without_query(name)}"
                    if link:
                        image = Encoded(f"{where}, a link, which can't be followed in a stream", b"")
                    else:
                        image = Encoded(where, cast(IO[bytes], tar.extractfile(member)).read())
                    yield from sample.add(key, image)
                tar.members = []  # type: ignore[attr-defined] # it would keep all that it has seen
            yield from sample.held.values()
    except tarfile.TarError as error:
        raise DataError(
            f"{without_query(name)} is not a whole, uncompressed tar file: {error}. Copy or write it again."
        ) from error


class _Sample:
    """Members side by side whose keys are equal up to the first dot, `name`."""

    def __init__(self, name: str):
        self.name = name
        self.held: dict[str, Encoded] = {}  # by key, until it is known whether there is an image of the name itself
        self._known: set[str] = set()
        self._apart = False  # so many that each is a sample of its own

    def wants(self, key: str) -> bool:
        """Whether an image is none of what came already, nor a further one of that."""
        return key not in self._known and not belongs_to(key, self._known)

    def add(self, key: str, image: Encoded) -> list[Encoded]:
        """Takes an image in and returns those that need not wait."""
        self._known.add(key)
        if key == self.name or self._apart:
            if not self._apart:
                self.held.clear()  # they are further images of this one
            return [image]
        self.held = {other: kept for other, kept in self.held.items() if not belongs_to(other, {key})}
        self.held[key] = image
        if len(self.held) <= _HELD:
            return []
        self._apart = True
        ready, self.held = list(self.held.values()), {}
        return ready


class _Strict(tarfile.TarInfo):
    """tarfile takes a cut or damaged header for the end of the archive; a whole one ends in blocks of zeros."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Strict":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):
                raise  # the end mark
            raise tarfile.ReadError(f"{error}, where a member or the end mark should begin") from error


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    if not is_remote(name):
        with open(name, "rb") as file:
            yield file
        return
    try:
        response = urlopen(name, timeout=_SILENCE)
    except HTTPError as error:
        error.close()
        if 400 <= error.code < 500 and error.code not in _TRY_LATER:
            raise DataError(f"{without_query(name)} can't be had ({error}); see that the URL is right.") from error
        raise
    with response:
        yield _Whole(response)


class _Whole:
    """A response that raises where its connection ended too early: `http.client` would take that for the end."""

    def __init__(self, response: Any):
        self._response, self._received = response, 0
        self._length = int(response.headers.get("Content-Length") or 0)

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`. Raises OSError."""
        data = self._response.read(size)
        self._received += len(data)
        if not data and self._received < self._length:
            raise ConnectionError(f"it broke off after {self._received} of {self._length} bytes")
        return data
