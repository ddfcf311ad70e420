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
    from uniplot import plot_to_string

    for name, (steps, values) in curves.items():
        title = f"{name}: {significant(values[0])} at step {steps[0]}, {significant(values[-1])} at step {steps[-1]}"
        margin = 0.05 * (max(values) - min(values) or max(abs(values[0]), 1))
        bounds = {"y_min": min(values) - margin, "y_max": max(values) + margin}
        yield plot_to_string(values, steps, lines=True, width=_WIDTH, height=_HEIGHT, title=title, **bounds)
