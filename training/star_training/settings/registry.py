"""Finds functions by name: a recipe or a study is a public function of a module, or of a package's modules."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

from star_catalog.names import not_found

_SERVES = ("known", "find")  # the module's own helpers


def known(module: str) -> dict[str, str]:
    """Returns the first docstring line of each public function of a module or a package's modules, by name."""
    return {
        name: (inspect.getdoc(f) or "").splitlines()[0]
        for name, f in inspect.getmembers(sys.modules[module], inspect.isfunction)
        if f"{f.__module__}.".startswith(f"{module}.") and not name.startswith("_") and name not in _SERVES
    }


def listed(found: dict[str, str]) -> str:
    """Returns the result of `known` in two columns, for the help of a command."""
    width = max(map(len, found)) + 2
    return "\n".join(f"  {name:{width}}{line}" for name, line in found.items())


def find(module: str, what: str, name: str) -> Callable[..., Any]:
    """Returns a function by name. Raises ValueError for an unknown name, with the noun `what` and the known ones."""
    if name not in known(module):
        raise ValueError(not_found(what, name, known(module)))
    return getattr(sys.modules[module], name)
