"""Invariant projection: maps of raw and of projected features, by class and by pose."""

from typing import Any

import numpy as np

from ..drawing import Figure, axes_of, finish
from ..tables import Table

_KINDS = ("raw", "sort")
_LABELLED = 20  # classes or poses; more have no legend
_MARKS = "os^Dv<>P*X"


def draw(known: dict[str, dict[str, Any]]) -> Figure | None:
    """Returns four maps for each model: raw and sorted features, by class and by pose."""
    if not known:
        return None
    figure, axes = axes_of(4, len(known), 15, 3.9 * len(known))
    rows = []
    for (label, details), line in zip(known.items(), axes, strict=True):
        places = [(kind, by) for by in ("classes", "poses") for kind in _KINDS]
        for axis, (kind, by) in zip(line, places, strict=True):
            points, groups = np.array(details["maps"][kind]), np.array(details[by])
            _scatter(axis, points, groups, legend=kind == _KINDS[-1])
            axis.set(title=f"{label}, {kind}, by {by[:-1].replace('classe', 'class')}", xticks=[], yticks=[])
            rows.append([label, kind, by, str(len(points)), f"{_spread(points, groups):.3f}"])
    alt = (
        "The two principal components of features of test images in random poses, raw and sorted over the poses, "
        "coloured by class and by pose; the table has the share of their variance between the classes or poses."
    )
    numbers = Table("projection", ["model", "features", "coloured by", "images", "variance between groups"], rows)
    return Figure("projection", "Features in random poses", alt, finish(figure), numbers)


def _scatter(axis: Any, points: np.ndarray, groups: np.ndarray, legend: bool) -> None:
    names = np.unique(groups)
    for k, name in enumerate(names):
        x, y = points[groups == name].T
        mark = _MARKS[k % len(_MARKS)]
        axis.scatter(x, y, s=14, marker=mark, alpha=0.7, linewidths=0, color=f"C{k % 10}", label=str(name))
    if legend and len(names) <= _LABELLED:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1, borderpad=0.2)


def _spread(points: np.ndarray, groups: np.ndarray) -> float:
    """Returns the share of the points' variance that lies between the means of the groups; 0 without variance."""
    means = np.stack([points[groups == name].mean(0) for name in groups])
    total = points.var(0).sum()
    return float(means.var(0).sum() / total) if total else 0.0
