"""Recipes: one function each, giving a Recipe; `star-zoo pretrain NAME` runs it.

Each says its source and its cost. A new recipe is a new public function in a module here, annotated `-> Recipe`.
"""

from typing import TYPE_CHECKING

from ..settings import registry

if TYPE_CHECKING:
    from ..pretraining.recipe import Recipe


def known() -> dict[str, str]:
    """Returns the recipes by name, each with the first line of its docstring."""
    return registry.known(__name__, "Recipe")


def find(name: str) -> "Recipe":
    """Returns the recipe of that name. Raises ValueError for an unknown one, listing the known ones."""
    return registry.find(__name__, "Recipe", "recipe", name)()
