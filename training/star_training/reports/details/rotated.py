"""Rotated test images: the accuracy by angle."""

from typing import Any

from star_catalog.decimals import fixed

from ..drawing import Figure, Looks, axes_of, draw_lines, finish
from ..tables import Table


def draw(known: dict[str, dict[str, Any]], looks: Looks) -> Figure | None:
    """Returns one small plot per classifier, a curve for each model over the angles of discs."""
    if not known:
        return None
    names = sorted({name for details in known.values() for name in details["discs"]})
    figure, axes = axes_of(len(names), height=2.3)
    rows = []
    for name, axis in zip(names, axes[:, 0], strict=True):
        by_model = {label: details for label, details in known.items() if name in details["discs"]}
        series = {label: (of["degrees"]["discs"], of["discs"][name]) for label, of in by_model.items()}
        draw_lines(axis, series, looks)
        axis.set(title=name, xlabel="angle, degrees", ylabel="top-1", xticks=range(0, 361, 90), ylim=(0, 1))
        rows += [
            [label, name, *(fixed(value, 3) for value in of["quarter turns"][name])] for label, of in by_model.items()
        ]
    alt = "Accuracy on discs of test images turned by each angle; the table has the quarter turns of whole images."
    degrees = next(iter(known.values()))["degrees"]["quarter turns"]
    numbers = Table("quarter turns", ["model", "classifier", *(f"{angle}°" for angle in degrees)], rows)
    return Figure("rotated", "Accuracy on turned test images", alt, finish(figure), numbers)
