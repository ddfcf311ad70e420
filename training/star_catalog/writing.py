"""The error for a file or folder that can't be written: one line with its path, the reason and the way out."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


class NotWritten(OSError):
    """A file or folder can't be written."""

    def __init__(self, path: Path, reason: str, way_out: str):
        super().__init__(f"{path} can't be written: {reason}; {way_out}")
        self.path, self.reason, self.way_out = path, reason, way_out


@contextlib.contextmanager
def writing(path: Path, part: Path | None = None) -> Iterator[None]:
    """Turns an error about `path`, or about the temporary `part` that is to replace it, into NotWritten for `path`.

    An error that names no file is about it, because one while writing to an open file names none. Others are passed on.
    """
    try:
        yield
    except NotWritten as error:
        if part is None or not error.path.is_relative_to(part):
            raise
        raise NotWritten(path / error.path.relative_to(part), error.reason, error.way_out) from error
    except OSError as error:
        # of a copy, the first name is the source, and only the second one can be short of room
        copied = error.filename2 if error.errno in _ROOM else None
        named = None if error.filename is None else Path(str(copied or error.filename))
        if not error.errno or not (named is None or _related(named, path) or (part and _related(named, part))):
            raise
        raise NotWritten(path, *_explained(path, error.errno)) from error


@contextlib.contextmanager
def going_on(how: str) -> Iterator[None]:
    """Adds to the way out of NotWritten how to go on afterwards, e.g. "resume the run"."""
    try:
        yield
    except NotWritten as error:
        raise NotWritten(error.path, error.reason, f"{error.way_out}, then {how}") from error


def check_writable(folder: Path) -> None:
    """Raises NotWritten unless files can be created in a folder, or the folder itself; call it before long work."""
    _check(folder, folder)


def check_file(path: Path) -> None:
    """Raises NotWritten unless a file can be created at `path`; call it before long work."""
    if path.is_dir():
        raise NotWritten(path, *_explained(path, errno.EISDIR))
    _check(path, path.parent)


def _check(path: Path, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        raise NotWritten(path, *_explained(path, error.errno or 0)) from error


def _related(a: Path, b: Path) -> bool:
    return a.is_relative_to(b) or b.is_relative_to(a)


def _existing(path: Path) -> Path:
    """Returns the innermost part of a path that exists."""
    while not os.path.lexists(path):
        path = path.parent
    return path


def _explained(path: Path, number: int) -> tuple[str, str]:
    """Returns the reason of an error of the file system, and the way out."""
    place, reason = _existing(path), os.strerror(number)
    if number in _ROOM:
        return reason, "make room"
    if number in (errno.EEXIST, errno.ENOTDIR) and not place.is_dir():
        return f"{'it' if place == path else place} is a file", "move it away or choose another place"
    if number in (errno.EISDIR, errno.ENOTEMPTY) and place == path:
        return "it is a folder", "move it away or choose another name"
    if number in _RIGHTS:
        folder = place if place.is_dir() else place.parent
        return f"{reason} in the folder {folder}", "make it writable or choose another"
    return reason, "choose another place"
