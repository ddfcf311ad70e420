"""Studies: one function each, giving a Study; `star-zoo reproduce NAME` runs it.

A docstring's first line says what is compared, then the cost and what came out. A new study is a new public function in
a module here, imported below.
"""

from ..settings import registry
from .cifar10_small import cifar10_small as cifar10_small
from .paper import in100_paper as in100_paper
from .paper import stl10_paper as stl10_paper
from .study import Study


def known() -> dict[str, str]:
    """The studies by name, each with the first line of its docstring."""
    return registry.known(__name__)


def find(name: str) -> Study:
    """The study of that name. Raises ValueError for an unknown one, listing the known ones."""
    return registry.find(__name__, "study", name)()
