"""Objectives: one method a file, found by module name; the seam they implement is in `_base`.

Letters: B images, V views of an image, D features, O embedding size, P augmentation parameters.
A new objective is a new file here with one subclass of `Objective`, or a module of your own that is named by its dotted
path, `my_package.my_objective`; nothing else has to change.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..encoder import Encoder as Encoder
from ..names import not_found
from ._base import Batch as Batch
from ._base import FeatureObjective as FeatureObjective
from ._base import Objective as Objective


def known() -> tuple[str, ...]:
    """Returns the names of the objectives in this package, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def find(name: str) -> Callable[..., Objective]:
    """Returns the one subclass of `Objective` that a module defines: one of this package, or any by its dotted path.

    Raises ValueError for a name that is not known or importable, and for a module without exactly one such class.
    """
    if "." not in name and name not in known():
        raise ValueError(not_found("objective", name, known()) + "; or the dotted path of a module, my_package.name")
    try:
        module = importlib.import_module(name if "." in name else f"{__name__}.{name}")
    except ImportError as error:
        raise ValueError(
            f"objective {name!r} can't be imported: {error}; its package must be installed, or its folder on PYTHONPATH"
        ) from error
    found = [
        c for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Objective) and c.__module__ == module.__name__
    ]  # fmt: skip
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise ValueError(f"objective {name!r}: the module must define one subclass of Objective, but defines {names}")
    return found[0]


def settings(name: str) -> dict[str, Any]:
    """Returns an objective's settings with their defaults: the keyword-only arguments of its class and its bases."""
    found: dict[str, Any] = {}
    for cls in inspect.getmro(find(name)):  # type: ignore[arg-type]
        parameters = inspect.signature(cls).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, parameter.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):  # keywords are not passed on to a base
            break
    return found


def build(name: str, num_features: int, policy: Any, **given: Any) -> Objective:
    """Builds a fresh objective on features of width D; `given` are its settings.

    The objective's policy is `policy` as the method adapts it. Raises ValueError for an unknown name or setting,
    listing the known ones.
    """
    kind: Any = find(name)
    defaults = settings(name)
    if unknown := set(given) - set(defaults):
        raise ValueError(
            f"objective {name!r} has no setting {', '.join(sorted(unknown))}; known: {', '.join(defaults) or 'none'}"
        )
    objective = kind(num_features, kind.adapt(policy), **given)
    objective.config = {
        "objective": name,
        "num_features": num_features,
        "settings": defaults | given,  # in full: defaults may change, a saved objective must not
        "policy": objective.policy.to_dict(),
    }
    return objective


def total(terms: dict[str, Tensor]) -> Tensor:
    """Returns the loss of a set of terms: their sum, because each carries its own weight."""
    return sum(terms.values(), start=next(iter(terms.values())).new_zeros(()))
