"""What to say of a name that is not known."""

import difflib
from collections.abc import Iterable


def not_found(what: str, name: str, known: Iterable[str]) -> str:
    """One line that names the unknown, the nearest known one and all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} {name!r} not found; {hint}known: {', '.join(names) or 'none'}"
