"""Detection recipes, one function each that returns a DetectionRecipe; `star-zoo detect MODEL --recipe NAME` runs it.

Each docstring states source and cost. A new recipe is a new public function in a module here, annotated
`-> DetectionRecipe`, that takes the name of the model.
"""

from typing import TYPE_CHECKING

from ...settings import registry

if TYPE_CHECKING:
    from ..recipe import DetectionRecipe


def known() -> dict[str, str]:
    """Returns the names of all recipes, each with the first line of its docstring."""
    return registry.known(__name__, "DetectionRecipe")


def find(name: str, model: str) -> "DetectionRecipe":
    """Returns the recipe of that name for a model. Raises ValueError for an unknown name, listing the known ones."""
    return registry.find(__name__, "DetectionRecipe", "recipe", name)(model)
