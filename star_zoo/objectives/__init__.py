"""Objectives: the heads, the view plan and the loss terms of one method, one file each, found by module name.

Letters: B images, V views of an image, D features, O embedding size, P augmentation parameters.
A new objective is a new file here with one subclass of `Objective`; nothing else has to change.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..names import not_found
from ._base import Objective as Objective


def known() -> tuple[str, ...]:
    """The names of all objectives, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def find(name: str) -> Callable[..., Objective]:
    """The class that the module `name` defines. Raises ValueError for an unknown name, listing the known ones."""
    if name not in known():
        raise ValueError(not_found("objective", name, known()))
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        c for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Objective) and c.__module__ == module.__name__
    )  # fmt: skip
    return found


def build(name: str, num_features: int, policy: Any, **settings: Any) -> Objective:
    """A fresh objective on features of width D under a policy; `settings` are its class's keyword arguments.

    Raises ValueError for an unknown name or setting, listing the known ones.
    """
    kind = find(name)
    defaults = {p.name: p.default for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY}
    if unknown := set(settings) - set(defaults):
        raise ValueError(
            f"objective {name!r} has no setting {', '.join(sorted(unknown))}; known: {', '.join(defaults) or 'none'}"
        )
    objective = kind(num_features, policy, **settings)
    objective.config = {
        "objective": name,
        "num_features": num_features,
        "settings": defaults | settings,  # in full: defaults may change, a saved objective must not
        "policy": policy.to_dict(),
    }
    return objective


def total(terms: dict[str, Tensor]) -> Tensor:
    """The loss that a set of terms makes: their sum, since each carries its own weight."""
    return sum(terms.values(), start=next(iter(terms.values())).new_zeros(()))
