"""Equivariance: augmentation parameters predicted from frozen features."""

from typing import Any

import numpy as np

from star_catalog.decimals import fixed

from ..drawing import Figure, Looks, axes_of, finish
from ..tables import Table


def draw(known: dict[str, dict[str, Any]], looks: Looks) -> Figure | None:
    """Returns bars of the R2 of each augmentation parameter, predicted from base view and view."""
    found = {
        label: dict(zip(details["params"], details["R2"]["pair, features"], strict=True))
        for label, details in known.items()
    }
    if not found:
        return None
    fields = list(dict.fromkeys(field for by_field in found.values() for field in by_field))
    size = 0.8 / len(found)
    figure, axes = axes_of(height=0.8 + len(fields) * max(0.25, 0.13 * len(found)))
    for k, (label, by_field) in enumerate(found.items()):
        places = [place + k * size for place, field in enumerate(fields) if field in by_field]
        lengths = [max(0.0, by_field[field]) for field in fields if field in by_field]
        look = looks[label]
        # the edge is visible where the length is zero; nothing is drawn where nothing was measured
        bars = {"color": look.color, "hatch": look.hatch, "edgecolor": look.color, "linewidth": 2, "alpha": 0.8}
        axes[0, 0].barh(places, lengths, 0.85 * size, label=label, **bars)
    axes[0, 0].set_yticks(np.arange(len(fields)) + 0.4 - size / 2, fields)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel="R², drawn as 0 if it is below", ylabel="augmentation parameter", xlim=(-0.02, 1.02))
    axes[0, 0].grid(color="0.9", axis="x")
    axes[0, 0].set_axisbelow(True)
    rows = [[label, *(fixed(by[f], 3) if f in by else "-" for f in fields)] for label, by in found.items()]
    alt = "R² of each augmentation parameter, from frozen features of base view and view; the table has the numbers."
    return Figure(
        "parameters",
        "Augmentation parameters predicted from features",
        alt,
        finish(figure),
        Table("R2", ["model", *fields], rows),
    )
