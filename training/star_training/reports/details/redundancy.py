"""Redundancy: canonical correlations of the two embeddings, beside those of shuffled pairs and random subspaces."""

from typing import Any

from star_catalog.decimals import fixed

from ..drawing import Figure, Looks, axes_of, draw_lines, finish
from ..tables import Table

_MEASURED = "canonical correlations"
_REFERENCES = {"shuffled pairs": 0.5, "random subspaces": 0.25}  # and how opaque their lines are


def draw(known: dict[str, dict[str, Any]], looks: Looks) -> Figure | None:
    """Returns one curve per model, largest correlation first, and a paler one of the same colour per reference."""
    series = {label: _curve(details[_MEASURED]) for label, details in known.items() if details.get(_MEASURED)}
    if not series:
        return None
    figure, axes = axes_of()
    rows = []
    for label, (_, y) in series.items():
        row = [label, *(fixed(value, 3) for value in (sum(y) / len(y), y[0], y[-1]))]
        for reference, opacity in _REFERENCES.items():
            values = known[label].get(f"{_MEASURED}, {reference}")  # records of earlier versions have none
            row.append(fixed(sum(values) / len(values), 3) if values else "-")
            if values:
                axes[0, 0].plot(*_curve(values), color=looks[label].color, alpha=opacity, linewidth=1)
        rows.append(row)
    draw_lines(axes[0, 0], series, looks)
    axes[0, 0].set(xlabel="canonical dimension", ylabel="correlation of z_inv and z_eq", ylim=(0, 1.02))
    if len(axes[0, 0].lines) > len(series):
        axes[0, 0].set_title("paler: shuffled pairs; palest: random subspaces")
    alt = "; ".join(f"{label} {average} on average" for label, average, *_ in rows)
    head = ["model", "mean", "largest", "smallest", *(f"mean of {reference}" for reference in _REFERENCES)]
    numbers = Table("canonical correlations", head, rows)
    return Figure(
        "canonical", "Canonical correlations of the two embeddings", f"Correlations: {alt}.", finish(figure), numbers
    )


def _curve(values: list[float]) -> tuple[list[float], list[float]]:
    return [float(k + 1) for k in range(len(values))], values
