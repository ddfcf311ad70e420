"""The methods of a card: the objectives that trained the model, oldest first, with the papers that they cite."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from star_zoo import objectives
from star_zoo.objectives import Paper

from .card_training import Made


class Methods(NamedTuple):
    """The values of the template and of the metadata."""

    papers: tuple[Paper, ...] = ()
    tags: tuple[str, ...] = ()
    description: str = ""  # the first line of the documentation of the objective that the heads belong to
    module: str = ""  # of the heads' objective, if it isn't part of star-zoo
    without_labels: bool = False


def of(made: Sequence[Made], heads: dict[str, Any]) -> Methods:
    """Returns the methods of the recorded runs and of the saved heads.

    An objective of another package is imported if the heads are its own, because they can't be loaded otherwise.
    """
    used = [(run.recipe["objective"], run.recipe.get("objective_args", {})) for run in made if run.recipe]
    if heads:
        used.append((heads["objective"], heads["settings"]))
    last = heads.get("objective", "")
    found = [objectives.find(name) for name in _with_inner(used) if name in objectives.known() or name == last]
    tags = found[-1].tags if heads else ()
    return Methods(
        papers=tuple(dict.fromkeys(paper for objective in found for paper in objective.papers)),
        tags=tags,
        description=(sys.modules[objectives.find(last).__module__].__doc__ or "").partition("\n")[0] if last else "",
        module="" if last in objectives.known() else last,
        without_labels=objectives.SELF_SUPERVISED in tags,
    )


def _with_inner(used: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yields the names of the objectives, each after those that its settings name, as `beside=simclr` does."""
    for name, settings in used:
        yield from (value for value in settings.values() if isinstance(value, str) and value in objectives.known())
        yield name
