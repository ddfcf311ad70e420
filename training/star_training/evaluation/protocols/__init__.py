"""Protocols: ways to evaluate a frozen backbone, one a file, found by module name.

A protocol is a module with `run(subject, splits, seed) -> Measurement`; the first line of the module says what it is.
It raises ValueError for a model or data set that it can't be run on, saying why. A new protocol is a new file here;
nothing else has to change.
"""

import importlib
import pkgutil
from collections.abc import Callable

from star_zoo.names import not_found

from ..metrics import Measurement

Protocol = Callable[..., Measurement]


def known() -> tuple[str, ...]:
    """The names of all protocols, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def find(name: str) -> Protocol:
    """The protocol of that name. Raises ValueError for an unknown one, listing the known ones."""
    if name not in known():
        raise ValueError(not_found("protocol", name, known()))
    return importlib.import_module(f"{__name__}.{name}").run
