"""Evaluating a model on a data set by a protocol, and the records of it in a `results.json`."""

import json
import time
from pathlib import Path
from typing import Any

from star_zoo.files import write_json

from . import evals
from .data.splits import Splits
from .model_names import model_folder
from .subject import Subject
from .versions import versions

_ACCURACY = ("linear", "knn", "few_shot", "label_fraction", "finetune", "detection")  # protocols
_SAME = ("protocol", "model", "data", "seed")  # a new record of the same replaces the old one
_SAME_PAIR = ("model", "other", "seed")


def evaluate(protocol: str, subject: Subject, splits: Splits, seed: int = 0) -> dict[str, Any]:
    """Runs a protocol; gives its record, plain JSON. Raises ValueError for what can't be evaluated."""
    run = evals.find(protocol)
    start = time.perf_counter()
    found = run(subject, splits, seed)
    return {
        "protocol": protocol,
        "model": subject.name,
        "model_fingerprint": subject.fingerprint,
        "data": splits.name,
        "data_fingerprint": {name: source.fingerprint for name, source in splits.opened.items()},
        "images": {name: len(source) for name, source in splits.opened.items()},
        "seed": seed,
        "settings": {**found.settings, "test images": splits.test_images},
        "metrics": {name: metric._asdict() for name, metric in found.metrics.items()},
        "details": found.details,
        "seconds": round(time.perf_counter() - start, 1),
        "versions": versions(),
    }


def results_file(model: str) -> Path | None:
    """Where records of a model are kept by default: the results.json of its folder; None for other names."""
    folder = None if model.startswith("untrained:") else model_folder(model)
    return folder and folder / "results.json"


def record(path: Path, result: dict[str, Any]) -> None:
    """Adds a record to the `evaluations` of a results.json, in place of an earlier one of the same."""
    _put(path, "evaluations", result, _SAME)


def record_comparison(path: Path, result: dict[str, Any]) -> None:
    """Adds one to the `comparisons` of a results.json, in place of an earlier one of the same models."""
    _put(path, "comparisons", result, _SAME_PAIR)


def _put(path: Path, kind: str, result: dict[str, Any], same: tuple[str, ...]) -> None:
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = [r for r in results.get(kind, []) if any(r[k] != result[k] for k in same)]
    write_json(path, {**results, kind: [*kept, result]})


def tells_accuracy(record: dict[str, Any]) -> bool:
    """Whether a record says how well a task is done; other records describe the features themselves."""
    return record["protocol"].partition(" ")[0] in _ACCURACY  # "finetune 0.1" is one of a share of the labels
