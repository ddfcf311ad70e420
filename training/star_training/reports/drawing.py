"""The parts of a figure that all figures share.

Lines and bars differ not only in colour but also in dashes, markers and hatches.
"""

import io
import itertools
from typing import Any, NamedTuple

import matplotlib.figure

from .tables import Table

STYLES = [
    {"linestyle": line, "marker": mark} for line, mark in zip(("-", "--", "-.", ":") * 2, "os^Dv<>P", strict=True)
]
HATCHES = ("", "//", "xx", "..", "\\\\", "++")


class Figure(NamedTuple):
    """A drawn figure with its texts; `name` is the name of its file."""

    name: str
    title: str
    alt: str  # the text alternative of the image
    png: bytes
    numbers: Table


def finish(figure: Any) -> bytes:
    """Returns a drawn figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110)
    return stream.getvalue()


def axes_of(columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 4.0) -> tuple[Any, Any]:
    """Returns a figure and its (rows, columns) axes; sizes are in inches.

    pyplot isn't used, because a notebook has settings of its own for it.
    """
    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_lines(axes: Any, series: dict[str, tuple[list[float], list[float]]]) -> None:
    """Draws one line per label, from its x and y."""
    for (label, (x, y)), style in zip(series.items(), itertools.cycle(STYLES), strict=False):
        axes.plot(x, y, label=label, markevery=max(1, len(x) // 8), markersize=5, **style)
    axes.legend(fontsize=8)
