"""The parts of a figure that all figures share.

One colour has one meaning: a model has the same colour, dashes, marker and hatch in every figure of a page, experts are
grey, and classes and poses have colours that no model has. A figure is as wide as a phone, so that its text stays
readable there; its panels are below each other, and its legend is outside of them.
"""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib
import matplotlib.figure
from matplotlib.ticker import MaxNLocator

from .tables import Table

WIDTH = 4.2  # inches
_DPI = 220
_TEXT: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.parse_math": False,  # names may hold dollar signs
}
# Okabe and Ito's colours without yellow, which is too pale for lines; distinct for most colour-blind readers
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES, _MARKERS, _HATCHES = ("-", "--", "-.", ":"), "os^Dv<>P", ("", "//", "xx", "..", "\\\\", "++")


class Look(NamedTuple):
    """The style of a model, or of an expert: it differs not only in colour."""

    color: str
    linestyle: str
    marker: str
    hatch: str


Looks = Mapping[str, Look]  # by label


class Figure(NamedTuple):
    """A drawn figure with its texts; `name` is the name of its file."""

    name: str
    title: str
    alt: str  # the text alternative of the image
    png: bytes
    numbers: Table


def looks_of(labels: Iterable[str], colors: Sequence[str] = _COLORS) -> Looks:
    """Returns a look for each label in order; colours repeat after the last, with other dashes, markers and hatches."""
    parts = zip(*map(itertools.cycle, (colors, _DASHES, _MARKERS, _HATCHES)), strict=True)
    return {label: Look(*part) for label, part in zip(labels, parts, strict=False)}


def experts(count: int) -> Looks:
    """Returns the looks of experts, which are counted from 1."""
    greys = [str(round(0.7 * k / max(count - 1, 1), 2)) for k in range(count)]
    return looks_of((f"expert {k + 1}" for k in range(count)), greys)


def sized() -> AbstractContextManager[None]:
    """Returns a context in which text has the size of these figures."""
    return matplotlib.rc_context(_TEXT)


def axes_of(rows: int = 1, columns: int = 1, height: float = 2.8, width: float = WIDTH) -> tuple[Any, Any]:
    """Returns a figure and its (rows, columns) axes; `height` is that of a row in inches, `width` that of the figure.

    pyplot isn't used, because a notebook has settings of its own for it.
    """
    figure = matplotlib.figure.Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_lines(axes: Any, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], looks: Looks) -> None:
    """Draws one line per label, from its x and y."""
    for label, (x, y) in series.items():
        look = looks[label]
        every = max(1, len(x) // 8)
        style = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
        axes.plot(x, y, label=label, markevery=every, markersize=4, linewidth=1.3, **style)
    axes.grid(color="0.9")


def draw_over_steps(axes: Any, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], looks: Looks) -> None:
    """Draws one line per label over training steps, which are whole numbers."""
    draw_lines(axes, series, looks)
    axes.set(xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def finish(figure: Any, legend: bool = True) -> bytes:
    """Returns a drawn figure as PNG with one legend of all its labels above it."""
    known: dict[str, Any] = {}
    for axes in figure.axes if legend else ():
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if known:
        columns = 1 if max(map(len, known)) > 30 else 2 if max(map(len, known)) > 12 else 3
        figure.legend(known.values(), known, loc="outside upper left", ncols=columns, fontsize=8, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=_DPI)
    return stream.getvalue()
