"""Recipes: one function each, giving a Recipe; `star-zoo pretrain NAME` runs it.

Each says its source and its cost. A new recipe is a new public function in a module here, annotated `-> Recipe`, or the
only such function in a module of the user's own.
"""

from typing import TYPE_CHECKING

from ..settings import registry

if TYPE_CHECKING:
    from ..pretraining.recipe import Recipe


def known() -> dict[str, str]:
    """Returns the recipes by name, each with the first line of its docstring."""
    return registry.known(__name__, "Recipe")


def find(name: str) -> "Recipe":
    """Returns the recipe of that name, or that of the user's module with this dotted path.

    Raises ValueError for an unknown name, listing the known ones, and for a module without a recipe.
    """
    return registry.find(__name__, "Recipe", "recipe", name)()
