"""Studies: several methods and seeds of one recipe, run and aggregated; `star-zoo reproduce NAME` runs one.

A study is a function that returns a `Study`. The first line of its docstring states the comparison; the rest states
cost and results. A new study is a new public function in a module of `definitions`, imported below.
"""

from ..settings import registry
from .definitions.cifar10_small import cifar10_small as cifar10_small
from .definitions.invariances_small import invariances_small as invariances_small
from .definitions.methods_small import methods_small as methods_small
from .definitions.paper import in100_paper as in100_paper
from .definitions.paper import stl10_paper as stl10_paper
from .definitions.symmetry_small import symmetry_small as symmetry_small
from .study import Study


def known() -> dict[str, str]:
    """Returns the names of all studies, each with the first line of its docstring."""
    return registry.known(__name__)


def find(name: str) -> Study:
    """Returns the study of that name. Raises ValueError for an unknown name, listing the known ones."""
    return registry.find(__name__, "study", name)()
