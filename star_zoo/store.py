"""The local store: models that a user installed under a tag, one folder each, as `save_pretrained` writes it."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

FILES = ("model.safetensors", "config.json", "heads.safetensors", "heads.json", "recipe.json", "results.json")
_TAG = re.compile(r"star_[a-z0-9_]+\.[a-z0-9_]+")


def home() -> Path:
    """Where star-zoo keeps things on this machine: `STAR_ZOO_HOME`, or `~/.cache/star_zoo`."""
    return Path(os.path.expanduser(os.environ.get("STAR_ZOO_HOME") or "~/.cache/star_zoo"))


def folder(tag: str) -> Path:
    """Where a tag is installed, or would be. Raises ValueError for what can't be a tag, a path among them."""
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no tag; a tag is star_ARCHITECTURE.NAME in small letters, as star_resnet18.mine")
    return home() / "models" / tag


def installed() -> list[str]:
    """The tags in the store, sorted; none for a store that isn't there or can't be read."""
    try:
        return sorted(p.name for p in (home() / "models").iterdir() if _TAG.fullmatch(p.name))
    except OSError:
        return []


def put(tag: str, files: Iterable[Path]) -> Path:
    """Copies files into the folder of a tag, in place of what was there; the folder is whole or as it was."""
    target = folder(tag)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{tag}.{secrets.token_hex(4)}.part")
    old = part.with_suffix(".old")
    try:
        part.mkdir()
        for file in files:
            shutil.copyfile(file, part / file.name)
        if os.path.lexists(target):  # a link to nowhere too
            target.rename(old)
        part.rename(target)
    except BaseException:
        if os.path.lexists(old) and not target.exists():
            old.rename(target)
        shutil.rmtree(part, ignore_errors=True)
        raise
    if old.is_symlink() or old.is_file():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
    return target
