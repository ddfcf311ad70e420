"""Invariance: cosine of whitened features before and after transformations."""

from typing import Any

import numpy as np

from star_catalog.decimals import fixed

from ..drawing import Figure, Looks, axes_of, draw_lines, finish
from ..tables import Table


def draw(known: dict[str, dict[str, Any]], looks: Looks) -> Figure | None:
    """Returns one small plot per transformation, over its strengths."""
    by_model = {label: details["curves"] for label, details in known.items()}
    if not by_model:
        return None
    names = [name for name in next(iter(by_model.values())) if all(name in curves for curves in by_model.values())]
    columns = 2
    figure, axes = axes_of(-(-len(names) // columns), columns, 1.5)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        strengths = next(iter(by_model.values()))[name]["strengths"]
        draw_lines(
            axis,
            {label: (range(len(curves[name]["cosine"])), curves[name]["cosine"]) for label, curves in by_model.items()},
            looks,
        )
        ends = sorted({0, len(strengths) - 1})
        axis.set_xticks(ends, [_shown(strengths[k]) for k in ends])
        axis.set(title=name, ylim=(-0.05, 1.05))
    figure.supylabel("cosine of whitened features", fontsize=9)
    figure.supxlabel("strength", fontsize=9)
    rows = [
        [label, *(fixed(np.mean(curves[name]["cosine"]), 3) for name in names)] for label, curves in by_model.items()
    ]
    alt = "Cosine of whitened features before and after each transformation, over its strengths; 1 is invariant."
    return Figure(
        "invariance",
        "What features are invariant to",
        alt,
        finish(figure),
        Table("mean cosine", ["model", *names], rows),
    )


def _shown(strength: Any) -> str:
    return f"{strength:g}" if isinstance(strength, float | int) else str(strength)
