"""Invariance: cosine of whitened features before and after transformations."""

import itertools
from typing import Any

import numpy as np

from ..drawing import STYLES, Figure, axes_of, finish
from ..tables import Table


def draw(known: dict[str, dict[str, Any]]) -> Figure | None:
    """Returns one small plot per transformation, over its strengths."""
    by_model = {label: details["curves"] for label, details in known.items()}
    if not by_model:
        return None
    names = [name for name in next(iter(by_model.values())) if all(name in curves for curves in by_model.values())]
    columns = 3
    figure, axes = axes_of(columns, -(-len(names) // columns), 9, 2.4 * -(-len(names) // columns))
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        for (label, curves), style in zip(by_model.items(), itertools.cycle(STYLES), strict=False):
            curve = curves[name]
            axis.plot(range(len(curve["strengths"])), curve["cosine"], label=label, markersize=4, **style)
            axis.set_xticks(
                range(len(curve["strengths"])),
                [f"{s:g}" if isinstance(s, float | int) else str(s) for s in curve["strengths"]],
                fontsize=6,
                rotation=45,
            )
        axis.set_title(name, fontsize=9)
        axis.set_ylim(-0.05, 1.05)
    axes[0, 0].legend(fontsize=7)
    rows = [
        [label, *(f"{np.mean(curves[name]['cosine']):.3f}" for name in names)] for label, curves in by_model.items()
    ]
    alt = "Cosine of whitened features before and after each transformation, over its strengths; 1 is invariant."
    return Figure(
        "invariance",
        "What features are invariant to",
        alt,
        finish(figure),
        Table("mean cosine", ["model", *names], rows),
    )
