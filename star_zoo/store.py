"""The local store: models that a user installed under a tag, as `save_pretrained` writes them.

models/TAG/FILES                     the first that was installed, or what a user put there
models/TAG/current, VERSION/FILES    after another took its place: `current` names the folder that counts

One file is replaced in one step, a folder is not: so a new version lies whole beside the old one before `current`
names it. Who looked before goes on reading the old one, which is removed by an install that is minutes later.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from .files import locked, replacing, sweep, write_text

FILES = ("model.safetensors", "config.json", "heads.safetensors", "heads.json", "recipe.json", "results.json")
_TAG = re.compile(r"star_[a-z0-9_]+\.[a-z0-9_]+")
_CURRENT = "current"
_VERSION = re.compile(r"version-[0-9a-f]{8}")
_GRACE = 600  # seconds that a version is kept after another took its place; a model is loaded in less


def home() -> Path:
    """Where star-zoo keeps things on this machine: `STAR_ZOO_HOME`, or `~/.cache/star_zoo`."""
    return Path(os.path.expanduser(os.environ.get("STAR_ZOO_HOME") or "~/.cache/star_zoo"))


def place(tag: str) -> Path:
    """What holds every version of a tag, or would. Raises ValueError for what can't be a tag, a path among them."""
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no tag; a tag is star_ARCHITECTURE.NAME in small letters, as star_resnet18.mine")
    return home() / "models" / tag


def folder(tag: str) -> Path:
    """The folder with the files of a tag as they are installed now, or would be. Raises ValueError as `place`.

    Whoever reads several of them asks once: the next answer may be another folder.
    """
    where = place(tag)
    try:
        version = (where / _CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return where
    return where / version if _VERSION.fullmatch(version) else where


def installed() -> list[str]:
    """The tags in the store, sorted; none for a store that isn't there or can't be read."""
    try:
        return sorted(p.name for p in (home() / "models").iterdir() if _TAG.fullmatch(p.name))
    except OSError:
        return []


def put(tag: str, files: Iterable[Path]) -> Path:
    """Copies files to where a tag is installed, in place of what was there; returns the folder.

    Readers, and whoever comes after a process that was killed, find one version or the other, whole. Processes that
    install at once take turns.
    """
    where = place(tag)
    with locked(home() / ".install.lock"):
        where.parent.mkdir(parents=True, exist_ok=True)
        _remove(where.parent.glob(f".{tag}.*.part"))  # of processes that were killed: nobody else is in here
        part = where.with_name(f".{tag}.{secrets.token_hex(4)}.part")
        _copy(files, part)
        target = _switch(where, part) if _holds_files(where) else _put_first(where, part)
        _remove(where.parent.glob(f".{tag}.*.old"))  # of killed processes of an earlier star_zoo
    return target


def _copy(files: Iterable[Path], target: Path) -> None:
    """Makes a folder with copies of some files, or nothing at all."""
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
    elif os.path.lexists(where):  # a file or a link, perhaps to nowhere, that a user put there; it isn't followed
        where.unlink()
    part.rename(where)
    return where


def _switch(where: Path, part: Path) -> Path:
    """Makes a whole folder the current version of a tag, and removes versions that nobody reads any more."""
    old, last_switch = folder(where.name), where.stat().st_mtime
    target = where / f"version-{secrets.token_hex(4)}"
    part.rename(target)
    if old.is_dir():
        os.utime(old)  # its age counts from now
    write_text(where / _CURRENT, f"{target.name}\n")
    due = time.time() - _GRACE
    _remove([p for p in where.glob("version-*") if p not in (old, target) and p.stat().st_mtime < due])
    if old != where and last_switch < due:
        _remove(where / name for name in FILES)
    sweep(where)
    return target


def _remove(paths: Iterable[Path]) -> None:
    """Removes files and folders that are there; what the system doesn't let go is left to the next install."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
