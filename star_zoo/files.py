"""Files that are whole or not there: written under a temporary name beside the target, then renamed.

Writers that read first what they change take turns by a lock.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_PATIENCE = 600  # seconds that a lock is waited for; whoever holds one copies files at most


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to; on success it becomes `path` in one step, on any error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    part.touch(exist_ok=False)  # with the permissions of any new file; mkstemp's 0600 would hide it from its group
    mode = part.stat().st_mode
    try:
        yield part
        part.chmod(mode)  # safetensors puts a 0600 file of its own in this one's place
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave a renamed file without its contents
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk is met while writing to an open file, which has no name
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock, of which `path` is the file: one process at a time is in here, the others wait.

    The file is made where it is missing, and stays; a process that dies lets the lock go. Raises OSError where the
    file can't be made, or another process doesn't let go for minutes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=_PATIENCE)
    try:
        lock.acquire(poll_interval=0.005)  # seconds; a turn may be as short as writing a small file
    except Timeout as error:
        raise OSError(f"another process has held {path} for {_PATIENCE} seconds; end it, then try again") from error
    try:
        yield
    finally:
        lock.release()


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left unfinished; for a folder that nobody else writes to now."""
    for pattern in (".*.????????.part", ".tmp??????"):  # those of `replacing`, and safetensors' own beside them
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
