"""Evaluates a model on a data set by a protocol, and keeps the records in a `results.json`."""

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data.eval_sets.dataset import Splits
from ..data.eval_sets.names import ends
from ..engine import results
from ..engine.environment import versions
from ..models.resolve import model_folder
from . import protocols
from .frozen_model import FrozenModel

_ACCURACY = (
    "linear", "knn", "few_shot", "few_shot_augmented", "label_fraction", "finetune", "detection",
)  # protocols  # fmt: skip

Data = dict[str, str]  # the fingerprint of each split


def evaluate(protocol: str, model: FrozenModel, splits: Splits, seed: int = 0) -> dict[str, Any]:
    """Runs a protocol and returns its record, plain JSON. Raises ValueError if the model can't be evaluated."""
    run = protocols.find(protocol)
    start = time.perf_counter()
    found = run(model, splits, seed)
    return {
        "protocol": protocol,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
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
    """Returns the default path of a model's records, the results.json in its folder; None for models without one."""
    folder = model_folder(model)
    return folder and folder / "results.json"


def record(path: Path, result: dict[str, Any], spec: str = "") -> dict[str, Any]:
    """Adds a record to the `evaluations` of a results.json, replacing one of the same evaluation; returns it.

    Two records are of the same evaluation if their protocol, model, seed and data agree, the data by name and content.
    If a record of other data uses the name already, the new one gets a longer name from `spec`, the path of its data.
    """
    with results.changing(path) as held:
        kept = [r for r in held.get("evaluations", []) if not _same_evaluation(r, result)]
        known = list(_data_of(held | {"evaluations": kept}, result["protocol"]))
        result = {**result, "data": _free(result["data"], result["data_fingerprint"], spec, known)}
        held["evaluations"] = [*kept, result]
    return result


def record_comparison(path: Path, result: dict[str, Any], specs: Sequence[str] = ()) -> dict[str, Any]:
    """Adds a record to the `comparisons` of a results.json, replacing one of the same comparison; returns it.

    Two records are of the same comparison if their models, protocols, seed and data agree. `specs` are the paths of
    the data, from which they get longer names if records of other data use one of their names already.
    """
    with results.changing(path) as held:
        kept = [r for r in held.get("comparisons", []) if not _same_comparison(r, result)]
        known = list(_data_of(held | {"comparisons": kept}, "linear"))
        data = result["data_fingerprints"]
        paths = itertools.chain(specs, itertools.repeat(""))
        names = {n: _free(n, found, spec, known) for (n, found), spec in zip(data.items(), paths, strict=False)}
        by_name = [key for key, value in result.items() if isinstance(value, dict) and value.keys() == data.keys()]
        result = result | {key: {names[n]: value for n, value in result[key].items()} for key in by_name}
        result["rows"] = [{**row, "data": names.get(row["data"], row["data"])} for row in result["rows"]]
        held["comparisons"] = [*kept, result]
    return result


def _same_evaluation(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[k] == b[k] for k in ("protocol", "model", "seed")) and _same_data(
        (a["data"], a.get("data_fingerprint", {})), (b["data"], b.get("data_fingerprint", {}))
    )


def _same_comparison(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if any(a.get(k) != b.get(k) for k in ("model", "other", "seed", "protocols")):
        return False
    ours, theirs = (list(r.get("data_fingerprints", {}).items()) for r in (a, b))
    return len(ours) == len(theirs) and all(any(_same_data(x, y) for y in theirs) for x in ours)


def _same_data(a: tuple[str, Data], b: tuple[str, Data]) -> bool:
    """Returns whether two names with fingerprints are of the same data; `_free` may have made the longer name."""
    short, long = sorted((a[0], b[0]), key=len)
    return (long == short or long.endswith(f"/{short}") or long.startswith(f"{short} ")) and not _differ(a[1], b[1])


def _differ(a: Data, b: Data) -> bool:
    return any(a[split] != b[split] for split in a.keys() & b.keys())


def _data_of(held: dict[str, Any], protocol: str) -> Iterator[tuple[str, Data]]:
    """Yields name and fingerprints of the data of every record that is comparable with a protocol's records.

    Detection and fine-tuning select images, and compute fingerprints, in ways of their own.
    """
    for r in held.get("evaluations", []):
        if r["protocol"] == protocol or {r["protocol"], protocol} <= set(protocols.known()):
            yield r["data"], r.get("data_fingerprint", {})
    if protocol in protocols.known():
        for r in held.get("comparisons", []):
            yield from r.get("data_fingerprints", {}).items()


def _free(name: str, data: Data, spec: str, known: list[tuple[str, Data]]) -> str:
    """Returns the name, or the first longer one that no other data use."""
    longer = [end for end in ends(spec) if end.endswith(f"/{name}")] if spec else []
    marked = f"{name} {'-'.join(found[:8] for found in data.values())}"  # if earlier data at this path use all names
    return next((n for n in (name, *longer) if not any(n == k and _differ(data, d) for k, d in known)), marked)


def in_words(record: dict[str, Any]) -> str:
    """Returns a record as text, one line per metric."""
    lines = [f"{record['model']} on {record['data']}, {record['protocol']} ({record['seconds']:.0f} s)"]
    for name, found in record["metrics"].items():
        interval = f"  [{found['low']:.4g}, {found['high']:.4g}]" if found["low"] is not None else ""
        lines.append(f"  {name:50}{found['value']:.4g}{interval}")
    return "\n".join(lines)


def tells_accuracy(record: dict[str, Any]) -> bool:
    """Returns whether a record measures performance on a task; other records describe the features themselves."""
    return record["protocol"].partition(" ")[0] in _ACCURACY  # "finetune 0.1" is of a share of the labels
