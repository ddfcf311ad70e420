"""Invariant projection: maps of raw and of projected features, by class and by pose."""

from typing import Any

import numpy as np
from matplotlib import colormaps

from star_catalog.decimals import fixed

from ..drawing import Figure, Looks, axes_of, finish
from ..tables import Table

_KINDS = ("raw", "sort")
_LABELLED = 20  # classes or poses; more have no legend
_MARKS = "os^Dv<>P*X"
_COLORS = {"classes": colormaps["Set2"](range(8)), "poses": colormaps["Dark2"](range(8))}  # which no model has


def draw(known: dict[str, dict[str, Any]], looks: Looks) -> Figure | None:
    """Returns four maps for each model: raw and sorted features, by class and by pose."""
    if not known:
        return None
    figure, axes = axes_of(2 * len(known), 2, 2.2)
    rows = []
    for k, (label, details) in enumerate(known.items()):
        places = [(kind, by) for by in _COLORS for kind in _KINDS]
        for axis, (kind, by) in zip(axes[2 * k : 2 * k + 2].flat, places, strict=True):
            points, groups = np.array(details["maps"][kind]), np.array(details[by])
            _scatter(axis, points, groups, _COLORS[by], legend=kind == _KINDS[-1])
            axis.set(title=f"{kind}, by {by[:-1].replace('classe', 'class')}", xticks=[], yticks=[])
            axis.set(xlabel="first component", ylabel=f"{label}\nsecond component" if kind == _KINDS[0] else "")
            rows.append([label, kind, by, str(len(points)), fixed(_spread(points, groups), 3)])
    alt = (
        "The two principal components of features of test images in random poses, raw and sorted over the poses, "
        "coloured by class and by pose; the table has the share of their variance between the classes or poses."
    )
    numbers = Table("projection", ["model", "features", "coloured by", "images", "variance between groups"], rows)
    return Figure("projection", "Features in random poses", alt, finish(figure, legend=False), numbers)


def _scatter(axis: Any, points: np.ndarray, groups: np.ndarray, colors: Any, legend: bool) -> None:
    names = np.unique(groups)
    for k, name in enumerate(names):
        x, y = points[groups == name].T
        mark = _MARKS[k % len(_MARKS)]
        axis.scatter(
            x, y, s=10, marker=mark, alpha=0.8, linewidths=0, color=colors[k % len(colors)].tolist(), label=str(name)
        )
    if legend and len(names) <= _LABELLED:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1, borderpad=0.2)


def _spread(points: np.ndarray, groups: np.ndarray) -> float:
    """Returns the share of the points' variance that lies between the means of the groups; 0 without variance."""
    means = np.stack([points[groups == name].mean(0) for name in groups])
    total = points.var(0).sum()
    return float(means.var(0).sum() / total) if total else 0.0
