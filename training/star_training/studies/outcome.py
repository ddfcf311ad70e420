"""The outcome of one run of a study as a small JSON file: its recipe, its cost, its numbers, and its curves over steps.

Tables, comparisons and figures are made from these files alone.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from star_catalog.files import write_text
from star_catalog.reading import json_object, refusing

from ..engine.logging import evaluations_of, mean_loss, read
from ..engine.results import read as read_results
from ..engine.results.old import upgrade
from ..evaluation.metrics import RATE, Metric
from ..evaluation.record import Record
from .study import MEAN

IMAGES_PER_SECOND, PEAK_MEMORY = "images_per_second", "peak_memory"  # slugs of a run's cost
_POINTS = 100  # of a stored loss curve, roughly
_TERMS = ("invariant", "equivariant")


class Outcome(NamedTuple):
    """One run: its method, its seed, its metrics by slug and data set, and the whole content of its file."""

    method: str
    seed: int
    metrics: dict[tuple[str, str], Metric]
    content: dict[str, Any]

    @property
    def recipes(self) -> list[dict[str, Any]]:
        """The recipe of the run, or those of the runs that it joins; a start has none."""
        return [part["recipe"] for part in self.content.get("parts", [self.content])]

    def number(self, slug: str, data: str, transfer: tuple[str, ...]) -> float | None:
        """Returns a value; for `MEAN`, its mean over the transfer sets, or None if any of them was not measured."""
        found = [self.metrics.get((slug, name)) for name in (transfer if data == MEAN else (data,))]
        values = [metric.value for metric in found if metric]
        return sum(values) / len(values) if values and len(values) == len(found) else None


def write(path: Path, method: str, seed: int, run: Path, over_steps: list[dict[str, Any]]) -> None:
    """Gathers the files of a finished and measured run into one; `over_steps` holds the numbers of its checkpoints."""
    results = read_results(run / "export" / "results.json")
    recipe = json_object(run / "export" / "recipe.json", "recipe.json")  # has no local paths
    entries = read(run / "log.jsonl")
    losses = [e for e in entries if "loss" in e]
    held = {
        "method": method,
        "seed": seed,
        "recipe": recipe,
        "training": results["training"],
        "evaluations": [_slim(found) for found in results["evaluations"]],
        "losses": {
            name: [[e["step"], round(e[name], 4)] for e in losses[:: max(1, len(losses) // _POINTS)]]
            for name in _TERMS
            if name in losses[0]
        },
        "mean losses": {name: mean_loss(losses, term=name) for name in _TERMS if name in losses[0]},
        "online": evaluations_of(entries),
        "heads": [e for e in entries if "router" in e],
        "transfer over steps": over_steps,
    }
    _write(path, held)


def write_fusion(path: Path, name: str, seed: int, place: Path, parts: Sequence[Path]) -> None:
    """Gathers the evaluations of a fusion in the folder `place`, and of its parts' outcomes the recipes and the cost.

    The images and the seconds of its training are those of all parts together.
    """
    loaded = [load(part) for part in parts]
    trained = [part.content["training"] for part in loaded]
    held = {
        "method": name,
        "seed": seed,
        "parts": [{"method": part.method, "recipe": part.content["recipe"]} for part in loaded],
        "training": {key: sum(found[key] for found in trained) for key in ("images", "seconds")},
        "evaluations": [_slim(found) for found in read_results(place / "results.json")["evaluations"]],
        "mean losses": {},
    }
    _write(path, held)


def write_untrained(path: Path, name: str, place: Path, fingerprint: str) -> None:
    """Gathers the evaluations of a start in the folder `place`; the fingerprint is that of its weights and views."""
    held = {
        "method": name,
        "seed": 0,
        "parts": [],
        "model_fingerprint": fingerprint,
        "training": {},
        "evaluations": [_slim(found) for found in read_results(place / "results.json")["evaluations"]],
        "mean losses": {},
    }
    _write(path, held)


def _write(path: Path, held: dict[str, Any]) -> None:
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in held.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")  # one line per part: small, but a diff stays readable


def _slim(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a record without the model, which the file names, and without most details.

    Figures of single runs need the details; of them only numbers by image are kept, which tables pair.
    """
    slim = {name: value for name, value in Record.from_dict(found).to_dict().items() if not name.startswith("model")}
    by_image = slim.pop("details").get("by image")
    return slim | ({"details": {"by image": by_image}} if by_image else {})


def _metrics(held: dict[str, Any]) -> dict[tuple[str, str], Metric]:
    """Returns metrics by slug and data set, those that may be averaged also under the slug of their mean."""
    metrics = {}
    for record in map(Record.from_dict, held["evaluations"]):
        for metric in record.metrics.values():
            metrics[metric.slug, record.data] = metric
            if metric.averaged_as:
                slug, name = metric.averaged_as
                metrics[slug, record.data] = metric._replace(slug=slug, name=name, averaged_as=None)
    for term, value in held["mean losses"].items():
        metrics[f"{term}_loss", ""] = Metric(f"{term}_loss", f"{term} loss, mean of all steps", "", "loss", value)
    return metrics | {(metric.slug, ""): metric for metric in _cost(held["training"])}


def _cost(training: dict[str, Any]) -> Iterator[Metric]:
    """Yields the speed and the memory of a run; outcomes of earlier versions have no memory."""
    if seconds := training.get("seconds"):
        yield Metric(IMAGES_PER_SECOND, "images per second", RATE, "cost", training["images"] / seconds)
    if peak := training.get("peak_memory"):
        yield Metric(PEAK_MEMORY, "peak memory, GB", "GB", "cost", peak / 1e9)


def load(path: Path) -> Outcome:
    """Reads an outcome from its file. Raises ValueError if the file is not an outcome."""
    with refusing(f"{path} is not the outcome of a run", "remove it and run the study again"):
        held = upgrade(json_object(path, "outcome"))
        return Outcome(held["method"], held["seed"], _metrics(held), held)
