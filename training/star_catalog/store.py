"""The local store: models that a user installed under a tag, in the format of `save_pretrained`.

models/TAG/FILES                     the first model installed, or files that a user put there
models/TAG/current, VERSION/FILES    after a replacement: `current` names the folder of the installed version

A file can be replaced in one step, a folder can't. Therefore a new version is complete beside the old one before
`current` names it. Readers that started earlier go on reading the old version, which a later install removes.
"""

import contextlib
import functools
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .files import locked, replacing, sweep, user_path, write_text
from .printing import printable
from .reading import one_line
from .writing import NotWritten, writing

FILES = (
    "model.safetensors", "config.json", "heads.safetensors", "heads.json", "recipe.json", "results.json",
    "finetune.json",
)  # fmt: skip
_TAG = re.compile(r"star_[a-z0-9_]+\.[a-z0-9_]+")
_CURRENT = "current"
_VERSION = re.compile(r"version-[0-9a-f]{8}")
_noted: set[Path] = set()
_GRACE = 600  # seconds for which a replaced version or an unfinished file is kept; loading a model takes less


def home() -> Path:
    """Returns the folder of star-zoo's local files: `STAR_ZOO_HOME`, or `~/.cache/star_zoo`."""
    return user_path(os.environ.get("STAR_ZOO_HOME") or "~/.cache/star_zoo")


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Goes on where the store can't be written, with one note in a process: nothing needs what it caches.

    Once in a process, it also removes what killed processes left in the caches.
    """
    try:
        yield
        _sweep_caches(home())
    except OSError as error:
        if (where := home()) not in _noted:
            _noted.add(where)
            reason = error.reason if isinstance(error, NotWritten) else one_line(error)
            line = f"star-zoo: nothing is cached in {where}, because it can't be written: {reason}"
            print(printable(line), file=sys.stderr)


@functools.cache
def _sweep_caches(where: Path) -> None:
    """Removes files that a killed writer left; one that changed in the last ten minutes may still be written."""
    due = time.time() - _GRACE
    for pattern in ("*/.*.????????.part", "*/.tmp??????"):  # the latter of safetensors
        for path in where.glob(pattern):
            if path.is_file() and path.stat().st_mtime < due:
                path.unlink(missing_ok=True)


def place(tag: str) -> Path:
    """Returns the folder of all versions of a tag, existing or not. Raises ValueError for an invalid tag."""
    if not _TAG.fullmatch(tag):
        raise ValueError(
            f"{tag!r} is not a valid tag; a tag is star_ARCHITECTURE.NAME in lower case, e.g. star_resnet18.mine"
        )
    return home() / "models" / tag


def folder(tag: str) -> Path:
    """Returns the folder with a tag's installed files, existing or not. Raises ValueError for an invalid tag.

    To read several files, call this once, because the next call may return another folder.
    """
    where = place(tag)
    try:
        version = (where / _CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return where
    return where / version if _VERSION.fullmatch(version) else where


def installed() -> list[str]:
    """Returns the tags in the store, sorted; an empty list if the store doesn't exist or can't be read."""
    try:
        return sorted(p.name for p in (home() / "models").iterdir() if _TAG.fullmatch(p.name))
    except OSError:
        return []


def put(tag: str, files: Iterable[Path]) -> Path:
    """Installs copies of files under a tag, replacing an installed version; returns the folder.

    Readers see the old version or the new one, always complete, even if this process is killed. Concurrent installs
    wait for each other.
    """
    where = place(tag)
    with locked(home() / ".install.lock"):
        part = where.with_name(f".{tag}.{secrets.token_hex(4)}.part")
        with writing(where, part):
            where.parent.mkdir(parents=True, exist_ok=True)
            _remove(where.parent.glob(f".{tag}.*.part"))  # of killed processes, because only one process holds the lock
            _copy(files, part)
            target = _switch(where, part) if _holds_files(where) else _put_first(where, part)
        _remove(where.parent.glob(f".{tag}.*.old"))  # of killed processes of an earlier star_zoo
    return target


def _copy(files: Iterable[Path], target: Path) -> None:
    """Creates a folder with copies of some files; removes it on any error."""
    try:
        target.mkdir()
        for file in files:
            with replacing(target / file.name) as part:
                shutil.copyfile(file, part)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _holds_files(where: Path) -> bool:
    return where.is_dir() and not where.is_symlink() and any(where.iterdir())


def _put_first(where: Path, part: Path) -> Path:
    if where.is_dir() and not where.is_symlink():
        where.rmdir()
    elif os.path.lexists(where):  # a file or a link, perhaps broken, that a user put there; a link isn't followed
        where.unlink()
    part.rename(where)
    return where


def _switch(where: Path, part: Path) -> Path:
    """Makes a complete folder the current version of a tag, and removes versions that are no longer read."""
    old, last_switch = folder(where.name), where.stat().st_mtime
    target = where / f"version-{secrets.token_hex(4)}"
    part.rename(target)
    if old.is_dir():
        os.utime(old)  # its grace period starts now
    write_text(where / _CURRENT, f"{target.name}\n")
    due = time.time() - _GRACE
    _remove([p for p in where.glob("version-*") if p not in (old, target) and p.stat().st_mtime < due])
    if old != where and last_switch < due:
        _remove(where / name for name in FILES)
    sweep(where)
    return target


def _remove(paths: Iterable[Path]) -> None:
    """Removes files and folders if they exist; those that can't be removed are left for the next install."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
