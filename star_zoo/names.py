"""The error message for an unknown name."""

import difflib
from collections.abc import Iterable


def not_found(what: str, name: str, known: Iterable[str]) -> str:
    """Returns a one-line message with the unknown name, the most similar known name and all known names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} {name!r} not found; {hint}known: {', '.join(names) or 'none'}"
