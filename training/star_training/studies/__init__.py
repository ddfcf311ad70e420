"""Studies: several methods and seeds of one recipe, run and aggregated; `star-zoo reproduce NAME` runs one.

A study is a function that returns a `Study`. The first line of its docstring states the comparison; the rest states
cost and results. A new study is a new public function in a module of `definitions`, annotated `-> Study`, or the only
such function in a module of the user's own.
"""

from typing import TYPE_CHECKING

from ..settings import registry

if TYPE_CHECKING:
    from .study import Study

_DEFINITIONS = f"{__name__}.definitions"


def known() -> dict[str, str]:
    """Returns the names of all studies, each with the first line of its docstring."""
    return registry.known(_DEFINITIONS, "Study")


def find(name: str) -> "Study":
    """Returns the study of that name, or that of the user's module with this dotted path.

    Raises ValueError for an unknown name, listing the known ones, and for a module without a study.
    """
    return registry.find(_DEFINITIONS, "Study", "study", name)()
