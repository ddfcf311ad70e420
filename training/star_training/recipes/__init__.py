"""Recipes: one function each, giving a Recipe; `star-zoo pretrain NAME` runs it.

Each says its source and its cost. A new recipe is a new public function in a module here, imported below.
"""

from ..pretraining.recipe import Recipe
from ..settings import registry
from .cifar10 import cifar10_resnet10t as cifar10_resnet10t
from .cifar10 import cifar10_resnet10t_48px as cifar10_resnet10t_48px
from .cifar10 import cifar10_resnet10t_48px_more as cifar10_resnet10t_48px_more
from .cifar10 import cifar10_small as cifar10_small
from .folder import folder as folder
from .paper import in100_resnet50 as in100_resnet50
from .paper import stl10_resnet18 as stl10_resnet18
from .spirograph import spirograph_tiny as spirograph_tiny
from .tiny_imagenet import tin100_resnet10t as tin100_resnet10t
from .tiny_imagenet import tin100_resnet10t_48px as tin100_resnet10t_48px
from .tiny_imagenet import tinyimagenet_resnet18 as tinyimagenet_resnet18


def known() -> dict[str, str]:
    """Returns the recipes by name, each with the first line of its docstring."""
    return registry.known(__name__)


def find(name: str) -> Recipe:
    """Returns the recipe of that name. Raises ValueError for an unknown one, listing the known ones."""
    return registry.find(__name__, "recipe", name)()
