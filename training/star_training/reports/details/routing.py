"""Routing: the mean weight of every expert for each task."""

from typing import Any

import numpy as np

from ..drawing import Figure, Looks, axes_of, finish
from ..tables import Table

_WRITTEN = 8  # experts; the weights of more don't fit into the cells


def draw(known: dict[str, dict[str, Any]], looks: Looks) -> Figure | None:
    """Returns an annotated heat map of tasks by experts for each model."""
    if not known:
        return None
    figure, axes = axes_of(len(known), height=1.6)
    rows = []
    for (label, details), axis in zip(known.items(), axes[:, 0], strict=True):
        weights = np.array(details["weights"])
        axis.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        for task, expert in np.ndindex(*weights.shape) if weights.shape[1] <= _WRITTEN else ():
            ink = "white" if weights[task, expert] > 0.5 else "black"
            axis.text(expert, task, f"{weights[task, expert]:.2f}", ha="center", va="center", color=ink, fontsize=8)
        axis.set_xticks(range(weights.shape[1]), [str(e + 1) for e in range(weights.shape[1])])
        axis.set_yticks(range(len(details["tasks"])), details["tasks"])
        axis.set(title=label, xlabel="expert")
        rows += [
            [label, task, *(f"{w:.3f}" for w in line)] for task, line in zip(details["tasks"], weights, strict=True)
        ]
    width = max(len(row) for row in rows)
    numbers = Table(
        "routing",
        ["model", "task", *(f"expert {e + 1}" for e in range(width - 2))],
        [row + ["-"] * (width - len(row)) for row in rows],
    )
    alt = "Mean routing weight of each expert for the invariant and the equivariant task; the table has the numbers."
    return Figure("routing", "Which experts each task uses", alt, finish(figure), numbers)
