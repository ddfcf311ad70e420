"""A run's folder: one set of settings in it, which only the same run may go on with, in one process at a time."""

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
    """Sees that a folder is free for a new run, or holds this very one to go on with; ValueError where neither.

    `path` is the file in it that holds the settings; `anew` is what to do to start again with others.
    """
    out = path.parent
    if not path.exists():
        if resume:
            raise ValueError(f"{out} holds no run to resume; leave --resume out, or give the run's folder with --out")
        if (export := out / "export" / "results.json").exists():  # of weights that this run would write over
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
    """In a process that was forked, such as one that loads images: a lock is held as long as any copy of it is."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class FolderLock:
    """Keeps a folder, which it makes, for one process until it is left or let go; a process that dies lets go too.

    Raises ValueError where another one has it. File systems that know no locks let everyone in.
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
            raise ValueError(f"another process is at work in {folder}; let it end, or choose another --out") from None
        except OSError:
            pass

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Once or more often."""
        if self._handle in _held:
            _held.discard(self._handle)
            with contextlib.suppress(OSError):  # where there are no locks
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # at once, whoever has a copy of the handle
            os.close(self._handle)
        self._handle = None

    __del__ = let_go
