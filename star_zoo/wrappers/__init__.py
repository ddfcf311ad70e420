"""Wrappers of backbones: modules like timm's, each made of one backbone or several; one a file, found by module name.

A new wrapper is a new file here with one subclass of `Wrapper`; nothing else has to change.
"""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from star_catalog.names import modules, not_found

from ..augmentations import Policy
from ..objectives import Objective
from ._base import Wrapper as Wrapper


def known() -> tuple[str, ...]:
    """Returns the names of all wrappers, sorted."""
    return modules(__name__)


def find(name: str) -> type[Wrapper]:
    """Returns the wrapper that a module of this package defines. Raises ValueError for an unknown name."""
    if name not in known():
        raise ValueError(not_found("wrapper", name, known()))
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        c for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Wrapper) and c.__module__ == module.__name__
    )  # fmt: skip
    return found


def settings(name: str) -> dict[str, Any]:
    """Returns a wrapper's settings with their defaults: the keyword-only arguments of its class."""
    parameters = inspect.signature(find(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build(
    name: str, backbones: Sequence[nn.Module], policy: Policy, objective: Objective | None = None, **given: Any
) -> Wrapper:
    """Wraps backbones that have no classifier; `policy` is how views of their images are drawn.

    `objective` is the one that the single backbone was trained with, if any; wrappers that use no heads ignore it.

    Raises ValueError for an unknown name or setting, listing the known ones, and for backbones that don't fit.
    """
    kind, defaults = find(name), settings(name)
    if unknown := set(given) - set(defaults):
        known_ones = ", ".join(defaults) or "none"
        raise ValueError(f"wrapper {name!r} has no setting {', '.join(sorted(unknown))}; known: {known_ones}")
    return kind(backbones, policy, objective, **given)
