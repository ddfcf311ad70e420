"""Protocols that evaluate a frozen backbone, one per file, found by module name.

A protocol is a module with `run(model, splits, seed) -> Measurement`; the first line of its docstring describes it.
`run` raises NotApplicable for a model or for labels that it isn't meant for, TooFew for a data set of too few images or
classes, and ValueError for other reasons; only the last counts as a failure in `eval all`. A protocol that returns
`hits` sets `CLASSIFIES_IMAGES = True`, so that `compare` takes it; one that takes seconds once the features are
extracted may set `IN_ALL = True`, so that `eval all` runs it by default, and `compare` if it takes it. To add a
protocol, add a file here; nothing else changes, because the unit and the kind of its metrics determine how they are
displayed.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from star_catalog.names import modules, not_found

if TYPE_CHECKING:
    from ..metrics import Measurement

Protocol = Callable[..., "Measurement"]


def known() -> tuple[str, ...]:
    """Returns the sorted names of all protocols."""
    return modules(__name__)


def check(name: str) -> None:
    """Raises ValueError for an unknown name, listing the known ones; imports no protocol."""
    if name not in known():
        raise ValueError(not_found("protocol", name, known()))


def find(name: str) -> Protocol:
    """Returns the protocol of that name. Raises ValueError as `check`."""
    check(name)
    return _module(name).run


def classifying() -> tuple[str, ...]:
    """Returns the sorted names of the protocols that classify test images one by one."""
    return tuple(name for name in known() if getattr(_module(name), "CLASSIFIES_IMAGES", False))


def compared() -> tuple[str, ...]:
    """Returns the sorted names of the protocols that `compare` runs by default."""
    return tuple(name for name in in_all() if name in classifying())


def in_all() -> tuple[str, ...]:
    """Returns the sorted names of the protocols that `eval all` runs by default."""
    return tuple(name for name in known() if getattr(_module(name), "IN_ALL", False))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
