"""Functions found by name: a recipe, a study is a public function of one module, or of the modules of a package."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

from star_zoo.names import not_found

_SERVES = ("known", "find")  # what such a module has beside them


def known(module: str) -> dict[str, str]:
    """The public functions of a module, or of a package from its own modules, by name, each with its first line."""
    return {
        name: (inspect.getdoc(f) or "").splitlines()[0]
        for name, f in inspect.getmembers(sys.modules[module], inspect.isfunction)
        if f"{f.__module__}.".startswith(f"{module}.") and not name.startswith("_") and name not in _SERVES
    }


def listed(found: dict[str, str]) -> str:
    """What `known` gives, in two columns, for the help of a command."""
    width = max(map(len, found)) + 2
    return "\n".join(f"  {name:{width}}{line}" for name, line in found.items())


def find(module: str, what: str, name: str) -> Callable[..., Any]:
    """One of them. Raises ValueError for an unknown name, calling it a `what` and listing the known ones."""
    if name not in known(module):
        raise ValueError(not_found(what, name, known(module)))
    return getattr(sys.modules[module], name)
