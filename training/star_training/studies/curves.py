"""Curves over training steps that show when methods diverge, each the mean over the seeds of a method."""

from collections.abc import Callable, Sequence
from typing import Any

from star_catalog.decimals import fixed

from ..reports.drawing import WIDTH, Figure, axes_of, draw_over_steps, finish, looks_of, sized
from ..reports.tables import Table
from .outcome import Outcome
from .study import Study

Curve = list[tuple[float, float]]  # step, value


def _online(outcome: Outcome) -> Curve:
    return [(e["step"], 100 * e["knn20_top1"]) for e in outcome.content["online"] if "knn20_top1" in e]


def _transfer(outcome: Outcome) -> Curve:
    found = [(e["step"], list(e["knn20_top1"].values())) for e in outcome.content["transfer over steps"]]
    return [(step, 100 * sum(values) / len(values)) for step, values in found]


def _loss(name: str) -> Callable[[Outcome], Curve]:
    return lambda outcome: [(step, value) for step, value in outcome.content["losses"].get(name, [])]


def _heads(read: Callable[[dict[str, Any]], float], needs: str) -> Callable[[Outcome], Curve]:
    return lambda outcome: [(e["step"], read(e)) for e in outcome.content["heads"] if needs in e]


def _overlap(entry: dict[str, Any]) -> float:
    return sum(map(min, *entry["router"]))


_PANELS: dict[str, Callable[[Outcome], Curve]] = {
    "20-NN accuracy online, %": _online,
    "20-NN accuracy, mean of small transfer sets, %": _transfer,
    "equivariant loss": _loss("equivariant"),
    "canonical correlation of z_inv and z_eq": _heads(lambda e: e["canonical"], "canonical"),
    "overlap of the tasks' weights": _heads(_overlap, "router"),
    "entropy of an image's weights, equivariant": _heads(lambda e: e["entropy"][1], "entropy"),
    "length of z_inv": _heads(lambda e: e["norm"][0], "norm"),
    "length of z_eq": _heads(lambda e: e["norm"][1], "norm"),
}


def draw(study: Study, outcomes: Sequence[Outcome], columns: int = 1) -> Figure | None:
    """Returns one small plot per quantity with one line per method; None if no run has any of the quantities.

    One column of plots is as wide as a phone, as all figures of a page.
    """
    panels = {title: _by_method(study, outcomes, read) for title, read in _PANELS.items()}
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        return None
    looks = looks_of(method.name for method in study.methods)  # the same in all plots
    with sized():
        figure, axes = axes_of(-(-len(panels) // columns), columns, 1.9, columns * WIDTH)
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
            series = {method: ([x for x, _ in curve], [y for _, y in curve]) for method, curve in lines.items()}
            draw_over_steps(axis, series, looks)
            axis.set(title=title)
        png = finish(figure)
    cells = [
        [title, method, *(fixed(curve[k][1], 3) for k in (0, len(curve) // 2, -1))]
        for title, lines in panels.items()
        for method, curve in lines.items()
    ]
    caption = f"Curves over steps, each the mean over a method's seeds: {', '.join(panels)}; the table has the numbers."
    numbers = Table("over steps", ["quantity", "method", "first", "halfway", "last"], cells)
    return Figure("curves", "When the methods diverge", caption, png, numbers)


def _by_method(study: Study, outcomes: Sequence[Outcome], read: Callable[[Outcome], Curve]) -> dict[str, Curve]:
    """Returns the mean curve of each method that has one, at the steps that all of its seeds have."""
    found = {}
    for method in study.methods:
        curves = [dict(curve) for o in outcomes if o.method == method.name and (curve := read(o))]
        if curves:
            steps = sorted(set.intersection(*map(set, curves)))
            found[method.name] = [(step, sum(c[step] for c in curves) / len(curves)) for step in steps]
    return {name: curve for name, curve in found.items() if curve}
