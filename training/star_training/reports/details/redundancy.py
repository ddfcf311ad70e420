"""Redundancy: canonical correlations of the two embeddings."""

from typing import Any

from star_catalog.decimals import fixed

from ..drawing import Figure, Looks, axes_of, draw_lines, finish
from ..tables import Table


def draw(known: dict[str, dict[str, Any]], looks: Looks) -> Figure | None:
    """Returns one curve per model, largest correlation first."""
    series = {}
    for label, details in known.items():
        if values := details.get("canonical correlations"):
            series[label] = ([float(k + 1) for k in range(len(values))], values)
    if not series:
        return None
    figure, axes = axes_of()
    draw_lines(axes[0, 0], series, looks)
    axes[0, 0].set(xlabel="canonical dimension", ylabel="correlation of z_inv and z_eq", ylim=(0, 1.02))
    rows = [[label, *(fixed(value, 3) for value in (sum(y) / len(y), y[0], y[-1]))] for label, (_, y) in series.items()]
    alt = "; ".join(f"{label} {average} on average" for label, average, *_ in rows)
    numbers = Table("canonical correlations", ["model", "mean", "largest", "smallest"], rows)
    return Figure(
        "canonical", "Canonical correlations of the two embeddings", f"Correlations: {alt}.", finish(figure), numbers
    )
