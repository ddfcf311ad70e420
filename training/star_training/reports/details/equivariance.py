"""Equivariance: augmentation parameters predicted from frozen features."""

import itertools
from typing import Any

import numpy as np

from ..drawing import HATCHES, Figure, axes_of, finish
from ..tables import Table


def draw(known: dict[str, dict[str, Any]]) -> Figure | None:
    """Returns bars of the R2 of each augmentation parameter, predicted from base view and view."""
    found = {
        label: dict(zip(details["params"], details["R2"]["pair, features"], strict=True))
        for label, details in known.items()
    }
    if not found:
        return None
    fields = list(dict.fromkeys(field for by_field in found.values() for field in by_field))
    figure, axes = axes_of(width=8)
    size = 0.8 / len(found)
    for k, ((label, by_field), hatch) in enumerate(zip(found.items(), itertools.cycle(HATCHES), strict=False)):
        places = np.arange(len(fields)) + k * size
        heights = [max(0.0, by_field.get(field, 0.0)) for field in fields]
        axes[0, 0].bar(places, heights, size, label=label, hatch=hatch, edgecolor="black", linewidth=0.5)
    axes[0, 0].set_xticks(np.arange(len(fields)) + 0.4 - size / 2, fields, rotation=30, ha="right")
    axes[0, 0].set(ylabel="R²", ylim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)  # outside the axes, so that it covers no bars
    rows = [[label, *(f"{by[f]:.3f}" if f in by else "-" for f in fields)] for label, by in found.items()]
    alt = "R² of each augmentation parameter, from frozen features of base view and view; the table has the numbers."
    return Figure(
        "parameters",
        "Augmentation parameters predicted from features",
        alt,
        finish(figure),
        Table("R2", ["model", *fields], rows),
    )
