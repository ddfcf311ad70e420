"""Slugs of names, and the error message for an unknown name."""

import difflib
import re
from collections.abc import Iterable


def not_found(what: str, name: str, known: Iterable[str]) -> str:
    """Returns a one-line message with the unknown name, the most similar known name and all known names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} {name!r} not found; {hint}known: {', '.join(names) or 'none'}"


def slugify(name: str) -> str:
    """Returns a name in snake case, e.g. "CIFAR-FS, 5 shots" as cifar_fs_5_shots."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
