"""The outcome of one run of a study as a small JSON file: its recipe, its cost, its numbers, and its curves over steps.

Tables, comparisons and figures are made from these files alone.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from star_zoo.files import write_text

from ..engine.logging import evaluations_of, read
from .study import MEAN

_ONE_NAME = {"Linear top-1": "Linear accuracy", "Linear mean per class": "Linear accuracy"}  # by each set's convention
_POINTS = 100  # of a stored loss curve, roughly
_TERMS = ("invariant", "equivariant")


class Outcome(NamedTuple):
    """One run: its method, its seed, its numbers by (metric, data), and the whole content of its file."""

    method: str
    seed: int
    numbers: dict[tuple[str, str], float]
    content: dict[str, Any]

    def number(self, metric: str, data: str, transfer: tuple[str, ...]) -> float | None:
        """Returns a number; for `MEAN`, its mean over the transfer sets, or None if any of them was not measured."""
        if data != MEAN:
            return self.numbers.get((metric, data))
        found = [self.numbers.get((metric, name)) for name in transfer]
        return sum(found) / len(found) if found and None not in found else None  # type: ignore[arg-type]


def write(path: Path, method: str, seed: int, run: Path, over_steps: list[dict[str, Any]]) -> None:
    """Gathers the files of a finished and measured run into one; `over_steps` holds the numbers of its checkpoints."""
    results = json.loads((run / "export" / "results.json").read_text(encoding="utf-8"))
    recipe = json.loads((run / "export" / "recipe.json").read_text(encoding="utf-8"))  # has no local paths
    entries = read(run / "log.jsonl")
    losses = [e for e in entries if "loss" in e]
    held = {
        "method": method,
        "seed": seed,
        "recipe": recipe,
        "training": results["training"],
        "evaluations": [_slim(record) for record in results["evaluations"]],
        "losses": {
            name: [[e["step"], round(e[name], 4)] for e in losses[:: max(1, len(losses) // _POINTS)]]
            for name in _TERMS
            if name in losses[0]
        },
        "mean losses": {name: _mean(losses, name) for name in _TERMS if name in losses[0]},
        "online": evaluations_of(entries),
        "heads": [e for e in entries if "router" in e],
        "transfer over steps": over_steps,
    }
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in held.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")  # one line per part: small, but a diff stays readable


def _slim(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record without its details, which only the figures of single runs need."""
    kept = ("protocol", "data", "data_fingerprint", "images", "seed", "settings", "metrics", "seconds", "versions")
    return {name: record[name] for name in kept}


def _mean(losses: list[dict[str, Any]], name: str) -> float:
    """Returns the mean over all steps; each log entry is the mean since the previous entry."""
    total, before = 0.0, 0
    for entry in losses:
        total += entry[name] * (entry["step"] - before)
        before = entry["step"]
    return total / before


def load(path: Path) -> Outcome:
    """Reads an outcome from its file. Raises ValueError if the file is not an outcome."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        numbers = {
            (_ONE_NAME.get(name, name), record["data"]): metric["value"]
            for record in held["evaluations"]
            for name, metric in record["metrics"].items()
        }
        numbers |= {(f"{name} loss, mean of all steps", ""): value for name, value in held["mean losses"].items()}
        return Outcome(held["method"], held["seed"], numbers, held)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the outcome of a run: {error!r}; remove it and run the study again") from error
