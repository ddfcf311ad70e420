"""Objectives: one method per module, found by the module's name; `_base` defines their interface.

Letters: B images, V views of an image, D features, O embedding size, P augmentation parameters.
To add an objective, add a module here with one subclass of `Objective`, or use the dotted path of your own module as
the objective's name, e.g. `my_package.my_objective`.
"""

import contextlib
import importlib
import inspect
import typing
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from star_catalog.objectives import check
from star_catalog.objectives import known as known

from ..batch import Batch as Batch
from ..encoder import Encoder as Encoder
from ._base import FeatureObjective as FeatureObjective
from ._base import Objective as Objective
from ._base import Pretrained as Pretrained
from ._papers import SELF_SUPERVISED as SELF_SUPERVISED
from ._papers import Paper as Paper


def find(name: str) -> type[Objective]:
    """Returns the subclass of `Objective` in a module, given its name in this package or its dotted path.

    Raises ValueError if the name is unknown, the module can't be imported, or it doesn't define exactly one subclass.
    """
    check(name)
    try:
        module = importlib.import_module(name if "." in name else f"{__name__}.{name}")
    except ImportError as error:
        raise ValueError(
            f"objective {name!r} can't be imported: {error}; install its package, or add its folder to PYTHONPATH"
        ) from error
    found = [
        c for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Objective) and c.__module__ == module.__name__
    ]  # fmt: skip
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise ValueError(f"objective {name!r} defines {names}; the module must define one subclass of Objective")
    return found[0]


def settings(name: str) -> dict[str, Any]:
    """Returns an objective's settings with their defaults: the keyword-only arguments of the class and its bases."""
    return {setting: parameter.default for setting, (_, parameter) in _keywords(name).items()}


def hints(name: str) -> dict[str, Any]:
    """Returns the types of an objective's settings, of those that have an annotation which can be evaluated."""
    found: dict[str, Any] = {}
    for setting, (cls, _) in _keywords(name).items():
        with contextlib.suppress(NameError, TypeError):  # of names that are imported for type checkers alone
            found |= {k: hint for k, hint in typing.get_type_hints(cls.__init__).items() if k == setting}
    return found


def _keywords(name: str) -> dict[str, tuple[type[Objective], inspect.Parameter]]:
    """Returns the keyword-only arguments of an objective, each with the class that declares it."""
    found: dict[str, tuple[type[Objective], inspect.Parameter]] = {}
    for cls in inspect.getmro(find(name)):
        parameters = inspect.signature(cls).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, (cls, parameter))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):  # the class passes no keywords to its base
            break
    return found


def check_settings(name: str, given: Iterable[str]) -> None:
    """Raises ValueError for settings that an objective doesn't have, listing the known ones."""
    known = settings(name)
    if unknown := set(given) - set(known):
        raise ValueError(
            f"objective {name!r} has no setting {', '.join(sorted(unknown))}; known: {', '.join(known) or 'none'}"
        )


def build(name: str, num_features: int, policy: Any, **given: Any) -> Objective:
    """Builds an untrained objective on features of width D = `num_features`; `given` are its settings.

    The objective's policy is `policy` after the method's `adapt`. Raises ValueError for an unknown name or setting,
    listing the known ones.
    """
    kind: Any = find(name)
    defaults = settings(name)
    check_settings(name, given)
    objective: Objective = kind(num_features, kind.adapt(policy), **given)
    objective.config = {
        "objective": name,
        "num_features": num_features,
        "settings": defaults | given,  # complete, because defaults may change and a saved objective must not
        "policy": objective.policy.to_dict(),
    }
    return objective


def total(terms: dict[str, Tensor]) -> Tensor:
    """Returns the loss: the sum of the terms, each of which includes its weight."""
    return sum(terms.values(), start=next(iter(terms.values())).new_zeros(()))
