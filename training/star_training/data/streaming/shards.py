"""Shards with sequential access: tar files on a disk or behind a URL. Letter: S shards."""

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

from ...messages import RESUME
from ..contents import of_files
from ..decode import IMAGE_SUFFIXES, MOST_ENCODED
from ..sources.base import DataError
from ..sources.raw import digest
from ..sources.tar.members import belongs_to, is_hidden, key_and_extension, webdataset_key

PAUSES = (1.0, 10.0, 60.0)  # seconds before each retry of a shard whose reading was interrupted
_SILENCE = 60.0  # timeout in seconds for a server that sends nothing
_HELD = 16  # images of one sample that are held until the one that it is named after
_TRY_LATER = (408, 429)  # HTTP 4xx codes that are worth a retry


class Encoded(NamedTuple):
    """An encoded image of a shard."""

    where: str  # the image's origin, for messages
    data: bytes


class Shards(Protocol):
    """The S shards of one data set, in a fixed order; safe to read in forked workers."""

    @property
    def fingerprint(self) -> str:
        """A short hex string that changes with the shards, as far as that is detected without a download."""

    def __len__(self) -> int: ...

    def read(self, shard: int) -> Iterator[Encoded]:
        """Yields the images of one shard, always in the same order. Raises DataError if it can't be read."""


@dataclass(frozen=True)
class TarShards:
    """WebDataset shards, each a path or an http(s) URL; only the first image of each sample is read."""

    names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the shards' names and of local shards' contents; remote contents aren't read."""
        names = [without_query(name) if is_remote(name) else os.path.basename(name) for name in self.names]
        local = [Path(name) for name in self.names if not is_remote(name)]
        return digest(["tar stream", *names, of_files(local)])

    def __len__(self) -> int:
        return len(self.names)

    def read(self, shard: int) -> Iterator[Encoded]:
        """Yields the images in the order of the file; resumes after an interruption by reading the file again."""
        name = self.names[shard]
        return persistent(lambda: _images(name), without_query(name))


def is_remote(name: str) -> bool:
    """Whether a shard's name is an http(s) URL."""
    return name.startswith(("http://", "https://"))


def without_query(name: str) -> str:
    """Returns the name without a URL's query, which may hold a password, for messages."""
    return urlsplit(name)._replace(query="", fragment="").geturl() if is_remote(name) else name


def persistent(read: Callable[[], Iterator[Encoded]], name: str) -> Iterator[Encoded]:
    """Yields the images of `read()`; if that fails, calls it again after a pause and skips the images already yielded.

    Raises DataError if all attempts fail.
    """
    yielded = 0
    for pause in (*PAUSES, None):
        try:
            for image in islice(read(), yielded, None):
                yielded += 1
                yield image
            return
        except (OSError, http.client.HTTPException) as error:
            if pause is None:
                raise DataError(
                    f"{name} can't be read ({str(error) or type(error).__name__}) and was tried {len(PAUSES) + 1} "
                    f"times; check that it exists and is complete, then {RESUME}."
                ) from error
            time.sleep(pause)


def _images(name: str) -> Iterator[Encoded]:
    """Yields the images of a tar file by the rules of `open_tar`, if the members of a sample are consecutive.

    At most 16 images are held until the one that their sample is named after, which bounds the memory. A link can't be
    followed in a stream, so it counts as an undecodable image.
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
                    elif member.size > MOST_ENCODED:
                        image = Encoded(f"{where}, of {member.size:,} bytes, which are too many", b"")
                    else:
                        image = Encoded(where, cast(IO[bytes], tar.extractfile(member)).read())
                    yield from sample.add(key, image)
                tar.members = []  # type: ignore[attr-defined] # which would grow with every member
            yield from sample.held.values()
    except tarfile.TarError as error:
        raise DataError(
            f"{without_query(name)} is not a complete, uncompressed tar file: {error}. Copy or write it again."
        ) from error


class _Sample:
    """Consecutive members whose keys up to the first dot are equal, namely `name`."""

    def __init__(self, name: str):
        self.name = name
        self.held: dict[str, Encoded] = {}  # by key, until it is known whether an image has the key `name`
        self._known: set[str] = set()
        self._apart = False  # whether there are so many that each is a sample of its own

    def wants(self, key: str) -> bool:
        """Whether an image is new and doesn't belong to the sample of an earlier image."""
        return key not in self._known and not belongs_to(key, self._known)

    def add(self, key: str, image: Encoded) -> list[Encoded]:
        """Adds an image and returns those that need not be held any longer."""
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
    """Raises ReadError for a bad header, which tarfile takes for the end; the real end is a block of zeros."""

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
            raise DataError(f"{without_query(name)} can't be downloaded ({error}); check the URL.") from error
        raise
    with response:
        yield _Whole(response)


class _Whole:
    """A response that raises if its connection ended early, which `http.client` takes for the end of the data."""

    def __init__(self, response: Any):
        self._response, self._received = response, 0
        self._length = int(response.headers.get("Content-Length") or 0)

    def read(self, size: int) -> bytes:
        """Returns the next bytes, at most `size`. Raises OSError."""
        data = self._response.read(size)
        self._received += len(data)
        if not data and self._received < self._length:
            raise ConnectionError(f"the connection ended after {self._received} of {self._length} bytes")
        return data
