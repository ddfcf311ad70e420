"""Atomic writes: a file or a folder is written under a temporary name beside its target, then renamed, so it is never
partial.

A writer that reads the old contents before it replaces them holds a lock.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .writing import writing

_PATIENCE = 600  # seconds to wait for a lock; a holder copies files at most


def user_path(text: str | os.PathLike[str]) -> Path:
    """Returns a path that a user gave, with `~` expanded; an unknown `~name` is the name of a file."""
    return Path(os.path.expanduser(text))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it replaces `path` in one step on success and is removed on any error.

    Raises NotWritten.
    """
    part = _temporary(path)
    with writing(path, part):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)  # with default permissions; mkstemp's 0600 would hide the file from the group
        mode = part.stat().st_mode
        try:
            yield part
            part.chmod(mode)  # safetensors replaces the file by its own with mode 0600
            with part.open("rb+") as file:
                os.fsync(file.fileno())  # without it, a power failure could leave the renamed file empty
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; it replaces the folder `path` on success and is removed on any error.

    No process sees files of both. On systems that can't exchange two folders in one step, `path` is missing for a
    moment, and stays so if the process is killed in it. Raises NotWritten.
    """
    part = _temporary(path)
    with writing(path, part):
        part.mkdir(parents=True)
        try:
            yield part
            _exchange(part, path) if path.exists() else part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # the old folder, after an exchange


def _exchange(part: Path, path: Path) -> None:
    """Exchanges two folders, in one step on systems that can."""
    import ctypes  # whose import takes longer than that of most others here

    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # of Linux; -100 is the working folder, 2 RENAME_EXCHANGE
    if rename is None or rename(-100, os.fsencode(part), -100, os.fsencode(path), 2) != 0:
        old = _temporary(path)
        path.rename(old)
        part.rename(path)
        old.rename(part)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, so that one process at a time runs the block and the others wait.

    The file is created if it is missing, and it is kept; the lock of a process that dies is released. Raises OSError
    if another process holds the lock for 600 seconds, NotWritten if the file can't be created.
    """
    from filelock import FileLock, Timeout  # whose import takes longer than that of everything else here

    lock = FileLock(path, timeout=_PATIENCE)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(poll_interval=0.005)  # seconds; a lock may be held only while a small file is written
    except Timeout as error:
        raise OSError(f"another process has held {path} for {_PATIENCE} seconds; end it, then try again") from error
    try:
        yield
    finally:
        lock.release()


def sweep(folder: Path, name: str = "*") -> None:
    """Removes what killed writers of a file or folder left beside it; nobody else may be writing it.

    Without `name`, the leftovers of all files and folders.
    """
    for pattern in (f".{name}.????????.part", *([".tmp??????"] if name == "*" else [])):  # the latter of safetensors
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)
            elif path.suffix == ".part":
                shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
