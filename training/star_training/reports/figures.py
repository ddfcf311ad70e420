"""The figures of a page, each with a description and its numbers.

Lines and bars differ not only in colour but also in dashes, markers and hatches.
"""

import io
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # draws into files, without a display

import matplotlib.pyplot as plt
import numpy as np

from ..engine.logging import evaluations_of
from .loading import Shown
from .tables import Table

STYLES = [
    {"linestyle": line, "marker": mark} for line, mark in zip(("-", "--", "-.", ":") * 2, "os^Dv<>P", strict=True)
]
_HATCHES = ("", "//", "xx", "..", "\\\\", "++")


class Figure(NamedTuple):
    """A drawn figure with its texts; `name` is the name of its file."""

    name: str
    title: str
    alt: str  # the text alternative of the image
    png: bytes
    numbers: Table


def finish(figure: Any) -> bytes:
    """Returns a drawn figure as PNG, and closes it."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110)
    plt.close(figure)
    return stream.getvalue()


def axes_of(columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 4.0) -> tuple[Any, Any]:
    """Returns a figure and its (rows, columns) axes; sizes are in inches."""
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)


def _lines(axes: Any, series: dict[str, tuple[list[float], list[float]]]) -> None:
    for (label, (x, y)), style in zip(series.items(), itertools.cycle(STYLES), strict=False):
        axes.plot(x, y, label=label, markevery=max(1, len(x) // 8), markersize=5, **style)
    axes.legend(fontsize=8)


def losses(models: list[Shown]) -> Figure | None:
    """Draws the loss over steps."""
    series = {
        m.label: ([float(e["step"]) for e in m.log if "loss" in e], [e["loss"] for e in m.log if "loss" in e])
        for m in models
    }
    series = {label: xy for label, xy in series.items() if xy[0]}
    if not series:
        return None
    figure, axes = axes_of()
    _lines(axes[0, 0], series)
    axes[0, 0].set(xlabel="step", ylabel="loss")
    rows = [[label, f"{y[0]:.3f}", f"{y[-1]:.3f}", f"{x[-1]:.0f}"] for label, (x, y) in series.items()]
    told = "; ".join(f"{label} from {first} to {last} in {steps} steps" for label, first, last, steps in rows)
    numbers = Table("loss", ["model", "first", "last", "steps"], rows)
    return Figure("loss", "Training loss", f"Loss over training steps: {told}.", finish(figure), numbers)


def online(models: list[Shown]) -> Figure | None:
    """Draws the evaluations during training."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for model in models:
        entries = evaluations_of(model.log)
        for name in entries[0] if entries else ():
            if name not in ("step", "epoch"):
                series[f"{model.label}, {name}"] = ([e["epoch"] for e in entries], [e[name] for e in entries])
    if not series:
        return None
    figure, axes = axes_of()
    _lines(axes[0, 0], series)
    axes[0, 0].set(xlabel="epoch", ylabel="accuracy, or R²")
    rows = [[label, f"{y[0]:.3f}", f"{y[-1]:.3f}"] for label, (_, y) in series.items()]
    told = "; ".join(f"{label} from {first} to {last}" for label, first, last in rows)
    numbers = Table("online", ["measure", "untrained", "trained"], rows)
    return Figure("online", "Frozen features during training", f"Over epochs: {told}.", finish(figure), numbers)


def routing(models: list[Shown]) -> Figure | None:
    """Draws the mean weight of every expert for each task, as an annotated heat map."""
    shown = [(m, m.record("routing")) for m in models]
    known = [(m.label, r["details"]) for m, r in shown if r]
    if not known:
        return None
    figure, axes = axes_of(rows=len(known), height=1.2 + 1.4 * len(known))
    rows = []
    for (label, details), axis in zip(known, axes[:, 0], strict=True):
        weights = np.array(details["weights"])
        axis.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        for task, expert in np.ndindex(*weights.shape):
            ink = "white" if weights[task, expert] > 0.5 else "black"
            axis.text(expert, task, f"{weights[task, expert]:.2f}", ha="center", va="center", color=ink, fontsize=8)
        axis.set_yticks(range(len(details["tasks"])), details["tasks"])
        axis.set(title=label, xlabel="expert")
        rows += [
            [label, task, *(f"{w:.3f}" for w in line)] for task, line in zip(details["tasks"], weights, strict=True)
        ]
    width = max(len(row) for row in rows)
    numbers = Table(
        "routing",
        ["model", "task", *(f"expert {e}" for e in range(width - 2))],
        [row + ["-"] * (width - len(row)) for row in rows],
    )
    told = "Mean routing weight of each expert for the invariant and the equivariant task; the table has the numbers."
    return Figure("routing", "Which experts each task uses", told, finish(figure), numbers)


def usage(models: list[Shown]) -> Figure | None:
    """Draws the mean weight of each expert during training: one small plot per model and task, one line per expert."""
    known = {m.label: [e for e in m.log if "router" in e] for m in models}
    known = {label: entries for label, entries in known.items() if len(entries) > 1}
    if not known:
        return None
    figure, axes = axes_of(2, len(known), 9, 2.8 * len(known))
    rows = []
    for (label, entries), pair in zip(known.items(), axes, strict=True):
        epochs, weights = [e["epoch"] for e in entries], np.array([e["router"] for e in entries])  # (epochs, T, E)
        for task, (name, axis) in enumerate(zip(("invariant", "equivariant"), pair, strict=True)):
            _lines(axis, {f"expert {e}": (epochs, weights[:, task, e].tolist()) for e in range(weights.shape[2])})
            axis.set(title=f"{label}, {name}", xlabel="epoch", ylabel="mean weight", ylim=(0, None))
            for when, row in (("first", weights[0, task]), ("last", weights[-1, task])):
                rows.append([label, name, when, ", ".join(f"{w:.3f}" for w in row)])
    told = "Mean routing weight of each expert over training, for both tasks; the table has the first and last values."
    numbers = Table("usage", ["model", "task", "when", "weights of the experts"], rows)
    return Figure("usage", "How the tasks share the experts during training", told, finish(figure), numbers)


def correlations(models: list[Shown]) -> Figure | None:
    """Draws the canonical correlations of the two embeddings, largest first."""
    series = {}
    for model in models:
        record = model.record("redundancy")
        if record and "canonical correlations" in record["details"]:
            values = record["details"]["canonical correlations"]
            series[model.label] = ([float(k + 1) for k in range(len(values))], values)
    if not series:
        return None
    figure, axes = axes_of()
    _lines(axes[0, 0], series)
    axes[0, 0].set(xlabel="canonical dimension", ylabel="correlation of z_inv and z_eq", ylim=(0, 1.02))
    rows = [[label, f"{sum(y) / len(y):.3f}", f"{y[0]:.3f}", f"{y[-1]:.3f}"] for label, (_, y) in series.items()]
    told = "; ".join(f"{label} {average} on average" for label, average, *_ in rows)
    numbers = Table("canonical correlations", ["model", "mean", "largest", "smallest"], rows)
    return Figure(
        "canonical", "Canonical correlations of the two embeddings", f"Correlations: {told}.", finish(figure), numbers
    )


def parameters(models: list[Shown]) -> Figure | None:
    """Draws the R2 of each augmentation parameter, predicted from pairs of frozen features."""
    known = {}
    for model in models:
        record = model.record("equivariance")
        if record:
            by_field = dict(zip(record["details"]["params"], record["details"]["R2"]["pair, features"], strict=True))
            known[model.label] = by_field
    if not known:
        return None
    fields = list(dict.fromkeys(field for by_field in known.values() for field in by_field))
    figure, axes = axes_of(width=8)
    size = 0.8 / len(known)
    for k, ((label, by_field), hatch) in enumerate(zip(known.items(), itertools.cycle(_HATCHES), strict=False)):
        places = np.arange(len(fields)) + k * size
        heights = [max(0.0, by_field.get(field, 0.0)) for field in fields]
        axes[0, 0].bar(places, heights, size, label=label, hatch=hatch, edgecolor="black", linewidth=0.5)
    axes[0, 0].set_xticks(np.arange(len(fields)) + 0.4 - size / 2, fields, rotation=30, ha="right")
    axes[0, 0].set(ylabel="R²", ylim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)  # outside the axes, so that it covers no bars
    rows = [[label, *(f"{by[f]:.3f}" if f in by else "-" for f in fields)] for label, by in known.items()]
    told = "R² of each augmentation parameter, from frozen features of base view and view; the table has the numbers."
    return Figure(
        "parameters",
        "Augmentation parameters predicted from features",
        told,
        finish(figure),
        Table("R2", ["model", *fields], rows),
    )


def invariance(models: list[Shown]) -> Figure | None:
    """Draws the cosine of whitened features over strengths, one small plot per transformation."""
    known = {m.label: r["details"]["curves"] for m in models if (r := m.record("invariance"))}
    if not known:
        return None
    names = list(next(iter(known.values())))
    columns = 3
    figure, axes = axes_of(columns, -(-len(names) // columns), 9, 2.4 * -(-len(names) // columns))
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        for (label, curves), style in zip(known.items(), itertools.cycle(STYLES), strict=False):
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
    rows = [[label, *(f"{np.mean(curves[name]['cosine']):.3f}" for name in names)] for label, curves in known.items()]
    told = "Cosine of whitened features before and after each transformation, over its strengths; 1 is invariant."
    return Figure(
        "invariance",
        "What features are invariant to",
        told,
        finish(figure),
        Table("mean cosine", ["model", *names], rows),
    )


ALL: tuple[Callable[[list[Shown]], Figure | None], ...] = (
    losses, online, routing, usage, correlations, parameters, invariance,
)  # fmt: skip
