"""The figures of a page, each with a description and its numbers: those of training logs here, those of protocols in
`details`."""

from collections.abc import Callable

import numpy as np

from ..engine.logging import evaluations_of
from . import details
from .drawing import Figure, axes_of, draw_lines, finish
from .loading import Shown
from .tables import Table


def draw(models: list[Shown]) -> list[Figure]:
    """Returns all figures for which any of the models has data."""
    found = [draw_one(models) for draw_one in _OF_LOGS] + [
        draw_one({m.label: known for m in models if (known := m.details(protocol))})
        for protocol, draw_one in details.known().items()
    ]
    return [figure for figure in found if figure]


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
    draw_lines(axes[0, 0], series)
    axes[0, 0].set(xlabel="step", ylabel="loss")
    rows = [[label, f"{y[0]:.3f}", f"{y[-1]:.3f}", f"{x[-1]:.0f}"] for label, (x, y) in series.items()]
    alt = "; ".join(f"{label} from {first} to {last} in {steps} steps" for label, first, last, steps in rows)
    numbers = Table("loss", ["model", "first", "last", "steps"], rows)
    return Figure("loss", "Training loss", f"Loss over training steps: {alt}.", finish(figure), numbers)


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
    draw_lines(axes[0, 0], series)
    axes[0, 0].set(xlabel="epoch", ylabel="accuracy, or R²")
    rows = [[label, f"{y[0]:.3f}", f"{y[-1]:.3f}"] for label, (_, y) in series.items()]
    alt = "; ".join(f"{label} from {first} to {last}" for label, first, last in rows)
    numbers = Table("online", ["measure", "untrained", "trained"], rows)
    return Figure("online", "Frozen features during training", f"Over epochs: {alt}.", finish(figure), numbers)


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
            draw_lines(axis, {f"expert {e}": (epochs, weights[:, task, e].tolist()) for e in range(weights.shape[2])})
            axis.set(title=f"{label}, {name}", xlabel="epoch", ylabel="mean weight", ylim=(0, None))
            for when, row in (("first", weights[0, task]), ("last", weights[-1, task])):
                rows.append([label, name, when, ", ".join(f"{w:.3f}" for w in row)])
    alt = "Mean routing weight of each expert over training, for both tasks; the table has the first and last values."
    numbers = Table("usage", ["model", "task", "when", "weights of the experts"], rows)
    return Figure("usage", "How the tasks share the experts during training", alt, finish(figure), numbers)


_OF_LOGS: tuple[Callable[[list[Shown]], Figure | None], ...] = (losses, online, usage)
