"""Fingerprints of data sets by their contents: which bytes, in which order, with which labels.

Names, sizes and modification times don't show that a file was overwritten, so every byte is read once: SHA-256, which
processors compute at 0.4 to 1.5 GB/s a thread, in as many threads as there are processors. That is a small part of
decoding the same images; for sets that are too large to decode beforehand it is one reading, as in the first epoch.

The digest of a list of files is kept under `star_zoo.store.home()`, by each file's path, device, inode, size, and
times of modification and of change. The last can't be set back: whatever writes to a file changes it. Files that
changed in the last two seconds are read anew each time, since a clock's tick may hide a second change.
"""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from star_zoo import store
from star_zoo.files import replacing

from .sources.raw import digest
from .threads import in_threads

_SETTLED = 2.0  # seconds after a change in which a clock's tick may hide another one; FAT's tick is as long
_PATIENCE = 10.0  # seconds of reading before the user reads why
_MOST_KEPT = 1000  # texts, each of some 100 bytes
_BLOCK, _CHUNK = 64, 2**20  # files that a thread reads in one go, bytes read at once


def fingerprint(*parts: object, classes: Sequence[str] | None, targets: Tensor | None) -> str:
    """Short hex that changes with the parts, the names or the order of the classes, and the targets."""
    labels = None if targets is None else (targets.dtype, tuple(targets.shape))
    return digest((*parts, classes, labels, b"" if targets is None else targets.numpy().tobytes()))


def of_files(files: Sequence[Path]) -> str:
    """Hex that changes with the bytes of any of the files and with their order, not with their names."""
    now = time.time()
    before = _listed(files)
    settled = before.changed < now - _SETTLED
    if settled and (found := kept(before.key)):
        return found
    digests = _read(files)
    made = digest(digests)
    if settled and None not in digests and _listed(files) == before:
        keep(before.key, made)
    return made


# What is kept: short texts by key, a file each, so that processes need not agree on anything


def kept(key: str) -> str | None:
    """The text kept under a key; None where there is none or where it is damaged."""
    try:
        text, checksum = _file(key).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    return text if checksum == digest((key, text)) else None


def keep(key: str, text: str) -> None:
    """Keeps one line of text under a key; where that can't be written, it isn't kept."""
    with contextlib.suppress(OSError):
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
    """What a list of files looks like without reading them."""

    key: str
    changed: float  # seconds since the epoch; the newest file's last change


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
    """Each file's digest; None for one that is there but can't be read."""
    began, digests, said = time.monotonic(), [], False
    block = max(1, min(_BLOCK, len(files) // (4 * (os.cpu_count() or 1))))
    for some in in_threads(lambda indices: [_digest(files[index]) for index in indices], len(files), block):
        digests += some
        if not said and time.monotonic() - began > _PATIENCE:
            said = True
            print(
                f"star-zoo: reading all {len(files)} files beside {files[0]}, to know them by their contents; "
                "once, as long as they don't change",
                file=sys.stderr,
            )
    return digests


def _digest(file: Path) -> bytes | None:
    sha = hashlib.sha256()
    try:
        with open(file, "rb", buffering=0) as stream:
            while data := stream.read(_CHUNK):
                sha.update(data)
    except FileNotFoundError:  # a link to nothing, which is a bad image
        return b""
    except OSError:
        return None
    return sha.digest()
