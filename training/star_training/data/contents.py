"""Fingerprints of data sets' contents: the bytes of the files, their order, and the labels.

Names, sizes and modification times don't reveal that a file was overwritten. Therefore every byte is hashed once with
SHA-256, at 0.4 to 1.5 GB/s per thread, with one thread per processor. This costs a fraction of decoding the images;
for data sets that are too large to decode in advance, it reads as many bytes as one epoch.

The digest of a list of files is cached under `star_catalog.store.home()`. Its key consists of each file's path, device,
inode, size, modification time and change time. The change time can't be set back, and every write updates it. Files
that changed in the last two seconds are hashed again each time, because two changes within one clock tick look alike.
"""

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from star_catalog import store
from star_catalog.files import replacing
from star_catalog.printing import printable

from ..messages import busy, quiet
from .sources.raw import digest
from .threads import in_threads

_SETTLED = 2.0  # seconds after which a further change has a later time stamp; the resolution of FAT is 2 s
_PATIENCE = 10.0  # seconds of hashing before a message explains the wait
_MOST_KEPT = 4000  # cached texts, a few for each split of a data set, each of about 100 bytes
_BLOCK, _CHUNK = 64, 2**20  # files hashed per task, bytes per read


def fingerprint(*parts: object, classes: Sequence[str] | None, targets: Tensor | None) -> str:
    """Returns a short hex string that depends on the parts, the classes' names and order, and the targets."""
    labels = None if targets is None else (targets.dtype, tuple(targets.shape))
    return digest((*parts, classes, labels, b"" if targets is None else targets.numpy().tobytes()))


def of_files(files: Sequence[Path]) -> str:
    """Returns a hex string that depends on the files' bytes and order, but not on their names."""
    now = time.time()
    before = _listed(files)
    settled = before.changed < now - _SETTLED
    if settled and (cached := kept(before.key)):
        return cached
    digests = _read(files)
    computed = digest(digests)
    if settled and None not in digests and _listed(files) == before:
        keep(before.key, computed)
    return computed


def state(files: Sequence[Path]) -> str:
    """Returns a hex string that changes with every write to one of the files, according to the file system alone."""
    return _listed(files).key


# The cache: short texts by key, one file each, so that processes need no coordination


def kept(key: str) -> str | None:
    """Returns the text cached under a key, or None if it is missing or damaged."""
    try:
        text, checksum = _file(key).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    return text if checksum == digest((key, text)) else None


def keep(key: str, text: str) -> None:
    """Caches one line of text under a key; does nothing but a note if the file can't be written."""
    with store.keeping():
        with replacing(_file(key)) as part:
            part.write_text(f"{text}\n{digest((key, text))}\n", encoding="ascii")
        entries = list(_file(key).parent.iterdir())
        if len(entries) > _MOST_KEPT:
            entries.sort(key=lambda entry: entry.stat().st_mtime)
            for entry in entries[: len(entries) - _MOST_KEPT]:
                entry.unlink(missing_ok=True)


def _file(key: str) -> Path:
    return store.home() / "contents" / key


# Files


class _Listed(NamedTuple):
    """The state of a list of files according to the file system, without reading them."""

    key: str
    changed: float  # the latest change of any file, in seconds since the epoch


def _listed(files: Sequence[Path]) -> _Listed:
    sha, changed = hashlib.sha256(), 0
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            entry: tuple[object, ...] = (os.path.abspath(file),)
        else:
            times = status.st_mtime_ns, status.st_ctime_ns
            entry = os.path.abspath(file), status.st_dev, status.st_ino, status.st_size, *times
            changed = max(changed, *times)
        sha.update(repr(entry).encode())
    return _Listed(sha.hexdigest(), changed / 1e9)


def _read(files: Sequence[Path]) -> list[bytes | None]:
    """Returns each file's digest, or None for a file that exists but can't be read."""
    digests: list[bytes | None] = []
    with busy(lambda: f"hashing the contents of {len(files)} files, of which {len(digests)} are read"):
        _read_all(files, digests)
    return digests


def _read_all(files: Sequence[Path], digests: list[bytes | None]) -> None:
    """Adds each file's digest, as `_read` returns them."""
    began, announced = time.monotonic(), quiet()
    block = max(1, min(_BLOCK, len(files) // (4 * (os.cpu_count() or 1))))
    for part in in_threads(lambda indices: [_digest(files[index]) for index in indices], len(files), block):
        digests += part
        if not announced and time.monotonic() - began > _PATIENCE:
            announced = True
            where = printable(f"{len(files)} files, the first of them {files[0]}")
            print(f"star-zoo: hashing the contents of {where}; this is done once, unless they change", file=sys.stderr)


def _digest(file: Path) -> bytes | None:
    sha = hashlib.sha256()
    if os.path.exists(file) and not os.path.isfile(file):  # a device or a pipe, which may have no end
        return None
    try:
        with open(file, "rb", buffering=0) as stream:
            while data := stream.read(_CHUNK):
                sha.update(data)
    except FileNotFoundError:  # a dangling link, which counts as a bad image
        return b""
    except OSError:
        return None
    return sha.digest()
