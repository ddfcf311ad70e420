"""Benchmarks: what a claim about speed rests on, measured in one run; one a file, found by module name.

A benchmark is a module whose first line says what it compares, with `declare(parser)` for its arguments and
`run(arguments) -> dict`, which prints what it finds and gives it as plain JSON. A new benchmark is a new file here, or
a package where it has parts of its own.
"""

import importlib
import pkgutil
from types import ModuleType


def known() -> tuple[str, ...]:
    """The names of all benchmarks, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def find(name: str) -> ModuleType:
    """The benchmark of a name that is known."""
    return importlib.import_module(f"{__name__}.{name}")
