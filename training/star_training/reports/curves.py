"""Curves of runs as text, for a terminal: the loss and every metric of the online evaluations over steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from star_catalog.decimals import significant

from ..engine.logging import evaluations_of, read

_WIDTH, _HEIGHT = 60, 10  # characters

Curve = tuple[list[int], list[float]]  # steps, values


def over_steps(entries: list[dict[str, Any]]) -> dict[str, Curve]:
    """Returns the curve of the loss and of each online metric, by name; {} for a log without any."""
    losses = [entry for entry in entries if "loss" in entry]
    measured = evaluations_of(entries)
    names = dict.fromkeys(name for entry in measured for name in entry if name not in ("step", "epoch"))
    series = {"loss": losses, **dict.fromkeys(names, measured)}
    found = {name: [entry for entry in where if name in entry] for name, where in series.items()}
    return {name: ([e["step"] for e in where], [e[name] for e in where]) for name, where in found.items() if where}


def text(run: Path) -> Iterator[str]:
    """Yields a plot for each curve of a run, which may be running. Raises ValueError if nothing was logged yet."""
    path = (run.parent if run.name in ("export", "export_best") else run) / "log.jsonl"
    curves = over_steps(read(path)) if path.is_file() else {}
    if not curves:
        raise ValueError(f"{run} holds no log.jsonl with a loss; pass the folder of a run that has begun to train")
    for name, curve in curves.items():
        yield _plotted(name, *curve)


def _plotted(name: str, steps: list[int], values: list[float]) -> str:
    """Returns a curve as text, its largest and smallest value on the right; a constant as a line without a plot.

    uniplot's own labels are rounded as far as they stay distinct, e.g. 3.5 and 3.0 to 4 and 3.
    """
    low, high, (first, last) = min(values), max(values), map(significant, (values[0], values[-1]))
    if low == high:
        return f"{name}: {first} at step {steps[0]}" + (f" and up to step {steps[-1]}" if len(steps) > 1 else "")
    from uniplot import plot_to_string

    margin = 0.05 * (high - low)  # less than a row, so that the extremes are in the first and in the last one
    plot = plot_to_string(
        values, steps, lines=True, width=_WIDTH, height=_HEIGHT, x_labels=False, y_labels=False,
        y_min=low - margin, y_max=high + margin,
    ).split("\n")  # fmt: skip
    title = f"{name}: {first} at step {steps[0]}, {last} at step {steps[-1]}".center(_WIDTH).rstrip()
    border, top, *rows, bottom, end = (line.rstrip() for line in plot if line.strip())
    labelled = [border, f"{top} {significant(high)}", *rows, f"{bottom} {significant(low)}", end]
    return "\n".join([title, *labelled, f" {steps[0]}{steps[-1]:>{_WIDTH - len(str(steps[0]))}}"])
