"""Dot plots of a study's first table: each run is a dot, each method a row, and its mean a line."""

from collections.abc import Sequence

from ..evaluation.metrics import of_runs
from ..reports.drawing import WIDTH, Figure, axes_of, finish, looks_of, sized
from . import aggregate
from .outcome import Outcome
from .study import Place, Study

_ROW, _MARGINS = 0.2, 0.8  # inches: height of a method, and of title and axis
_LONG = 40  # characters of a title after which the data set has a line of its own


def draw(study: Study, outcomes: Sequence[Outcome], columns: int = 1) -> Figure | None:
    """Returns one panel per headline number, with shares in per cent; None if no run has any of them."""
    found = {place: _by_method(study, outcomes, place) for place in study.headline}
    panels = {place: values for place, values in found.items() if values}
    if not panels:
        return None
    looks = looks_of(column.name for column in study.columns)  # the same in all panels
    names = [name for name in looks if any(name in values for values in panels.values())]
    with sized():
        height = _ROW * len(names) + _MARGINS
        figure, axes = axes_of(-(-len(panels) // columns), columns, height, columns * WIDTH)
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        for axis, (place, values) in zip(axes.flat, panels.items(), strict=False):
            for row, name in enumerate(names):
                if name in values:
                    dots = {"color": looks[name].color, "marker": looks[name].marker, "s": 14, "alpha": 0.7}
                    axis.scatter(values[name], [row] * len(values[name]), **dots)
                    axis.plot([of_runs(values[name]).value] * 2, [row - 0.35, row + 0.35], color=looks[name].color)
            axis.set(title=_title(outcomes, place), yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6))
            axis.set_yticklabels(names if axis in axes[:, 0] else [])
            axis.grid(color="0.9", axis="x")
        png = finish(figure, legend=False)
    alt = f"Dots for the runs of {', '.join(names)}; the table has the means over seeds."
    return Figure("seeds", "Every run", alt, png, aggregate.headline(study, outcomes))


def _by_method(study: Study, outcomes: Sequence[Outcome], place: Place) -> dict[str, list[float]]:
    scale = 100 if aggregate.definition(outcomes, place.metric).is_share else 1
    found = {column.name: aggregate.by_seed(study, outcomes, column.name, place) for column in study.columns}
    return {name: [scale * value for value in by_seed.values()] for name, by_seed in found.items() if by_seed}


def _title(outcomes: Sequence[Outcome], place: Place) -> str:
    title = aggregate.definition(outcomes, place.metric).title
    if not place.data:
        return title
    return f"{title} ({place.data})" if len(title) < _LONG else f"{title}\n({place.data})"
