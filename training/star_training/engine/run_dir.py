"""A run's folder: it holds the settings of one run, which alone may resume there, in one process at a time."""

import contextlib
import json
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where a folder can't be locked
    fcntl = None  # type: ignore[assignment]

from ..settings.base import Settings, differences


def check_folder(settings: Settings, path: Path, resume: bool, anew: str) -> None:
    """Raises ValueError unless the folder is free for a new run, or holds this run and `resume` is set.

    `path` is the file in the folder with the settings; `anew` is the advice on how to start again with others.
    """
    out = path.parent
    if not path.exists():
        if resume:
            raise ValueError(f"{out} holds no run to resume; leave --resume out, or give the run's folder with --out")
        if (export := out / "export" / "results.json").exists():  # this run would overwrite them
            raise ValueError(f"{export.parent} holds a model already; remove it, or choose another folder with --out")
        return
    if not resume:
        raise ValueError(f"{out} already holds a run; go on with --resume, or choose another folder with --out")
    try:
        before = settings.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if found := differences(before, settings):
        raise ValueError(
            f"the settings differ from those that {out} was started with (theirs, yours): {'; '.join(found)}; "
            f"give the same, or start anew with {anew}"
        )


_held: set[int] = set()  # handles of locked folders


def _forget() -> None:
    """Closes the handles in a forked process, e.g. a worker, because any open copy keeps the lock."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class FolderLock:
    """Creates a folder and locks it for this process until exit, `let_go` or the end of the process.

    Raises ValueError if another process holds the lock. File systems without locks admit every process.
    """

    def __init__(self, folder: Path):
        self._handle: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return
        self._handle = os.open(folder, os.O_RDONLY)
        _held.add(self._handle)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.let_go()
            raise ValueError(f"another process is using {folder}; let it end, or choose another --out") from None
        except OSError:
            pass

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Releases the lock; further calls do nothing."""
        if self._handle in _held:
            _held.discard(self._handle)
            with contextlib.suppress(OSError):  # of file systems without locks
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # closing alone would not release it if copies are open
            os.close(self._handle)
        self._handle = None

    __del__ = let_go
