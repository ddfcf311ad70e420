"""Benchmarks: the measurements behind all statements about speed, one per file, found by module name.

The first line of a benchmark's docstring describes the comparison, `declare(parser)` declares its arguments, and
`run(arguments) -> dict` prints the results and returns them as plain JSON. To add a benchmark, add a file here, or a
package if it has several parts.
"""

import importlib
from types import ModuleType

from star_catalog.names import modules


def known() -> tuple[str, ...]:
    """Returns the names of all benchmarks, sorted."""
    return modules(__name__)


def find(name: str) -> ModuleType:
    """Returns the benchmark of a known name."""
    return importlib.import_module(f"{__name__}.{name}")
