"""`Record`, the result of evaluating a model on a data set by a protocol, and the `results.json` that keeps records."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_catalog.decimals import significant
from star_catalog.printing import printable
from star_catalog.reading import one_line
from star_catalog.writing import NotWritten

from ..data.eval_sets.dataset import Splits
from ..data.eval_sets.names import ends
from ..engine import results
from ..engine.environment import versions
from ..engine.results.fields import check_evaluation
from ..models.resolve import model_folder
from . import protocols
from .frozen_model import FrozenModel
from .metrics import Metric

Data = dict[str, str]  # the fingerprint of each split


@dataclass(frozen=True, kw_only=True)
class Record:
    """A measurement with everything that identifies it. Fields that a file lacks have their defaults."""

    protocol: str
    model: str = ""
    model_fingerprint: str = ""
    data: str
    data_fingerprint: Data = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)  # number by split
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)  # by slug
    details: dict[str, Any] = field(default_factory=dict)  # data for figures
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON."""
        fields = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return fields | {"metrics": {slug: metric.to_dict() for slug, metric in self.metrics.items()}}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Record":
        """Returns the record of `to_dict`, whose other keys are ignored. Raises ValueError for anything else."""
        check_evaluation(found, "the record")
        fields = {entry.name: found[entry.name] for entry in dataclasses.fields(cls) if entry.name in found}
        metrics = {slug: Metric.from_dict(slug, metric) for slug, metric in found.get("metrics", {}).items()}
        return cls(**fields | {"metrics": metrics})

    @property
    def listed(self) -> list[Metric]:
        """The metrics that cards, pages and printed results list."""
        return [metric for metric in self.metrics.values() if metric.listed]

    def __str__(self) -> str:
        lines = [printable(f"{self.model} on {self.data}, {self.protocol} ({self.seconds:.0f} s)")]
        width = max((len(metric.title) for metric in self.listed), default=0)
        lines += [f"  {metric.title:{width}}  {metric.text(significant)}" for metric in self.listed]
        if more := len(self.metrics) - len(self.listed):
            lines.append(f"  and {more} more, by slug, in the results.json")
        return "\n".join(lines)


def evaluate(protocol: str, model: FrozenModel, splits: Splits, seed: int = 0) -> Record:
    """Runs a protocol and returns its record. Raises ValueError if the model can't be evaluated."""
    run, splits = protocols.find(protocol), splits.reading(model.channels)
    start = time.perf_counter()
    found = run(model, splits, seed)
    return Record(
        protocol=protocol,
        model=model.name,
        model_fingerprint=model.fingerprint,
        data=splits.name,
        data_fingerprint={name: source.fingerprint for name, source in splits.opened.items()},
        images={name: len(source) for name, source in splits.opened.items()},
        seed=seed,
        settings={**found.settings, "test images": splits.test_images},
        metrics=found.metrics,
        details=found.details,
        seconds=round(time.perf_counter() - start, 1),
        versions=versions(),
    )


def results_file(model: str) -> Path | None:
    """Returns the default path of a model's records, the results.json in its folder; None for models without one."""
    folder = model_folder(model)
    return folder and folder / "results.json"


def unwritable(model: str) -> str | None:
    """Returns the note that a training's record can't be added to the results.json of its start; None if it can.

    Raises ValueError for a file that can't be read.
    """
    path = results_file(model)
    try:
        results.check(path) if path else None
    except NotWritten as error:
        return f"the result won't be added to {path}: {error.reason}"
    return None


def record_at_start(model: str, result: Record, spec: str) -> str | None:
    """Adds a training's record to the results.json of its start; returns a note if it can't be written."""
    try:
        if path := results_file(model):
            record(path, result, spec)
    except (OSError, ValueError) as error:
        return f"not added to {path}: {one_line(error)}"
    return None


def record(path: Path, result: Record, spec: str = "") -> Record:
    """Adds a record to the `evaluations` of a results.json, replacing one of the same evaluation; returns it.

    Two records are of the same evaluation if their protocol, model, seed and data agree, the data by name and content.
    If a record of other data uses the name already, the new one gets a longer name from `spec`, the path of its data.
    """
    with results.changing(path) as held:
        made = result.to_dict()
        kept = [r for r in held.get("evaluations", []) if not _same_evaluation(r, made)]
        known = list(_data_of(held | {"evaluations": kept}, result.protocol))
        name = _free(result.data, result.data_fingerprint, spec, known)
        held["evaluations"] = [*kept, made | {"data": name}]
    return dataclasses.replace(result, data=name)


def record_comparison(path: Path, result: dict[str, Any], specs: Sequence[str] = ()) -> dict[str, Any]:
    """Adds a record to the `comparisons` of a results.json, replacing one of the same comparison; returns it.

    Two records are of the same comparison if their models, protocols, seed and data agree. `specs` are the paths of
    the data, from which they get longer names if records of other data use one of their names already.
    """
    with results.changing(path) as held:
        kept = [r for r in held.get("comparisons", []) if not _same_comparison(r, result)]
        known = list(_data_of(held | {"comparisons": kept}, None))
        data = result["data_fingerprints"]
        paths = itertools.chain(specs, itertools.repeat(""))
        names = {n: _free(n, found, spec, known) for (n, found), spec in zip(data.items(), paths, strict=False)}
        by_name = [key for key, value in result.items() if isinstance(value, dict) and value.keys() == data.keys()]
        result = result | {key: {names[n]: value for n, value in result[key].items()} for key in by_name}
        result["rows"] = [{**row, "data": names.get(row["data"], row["data"])} for row in result["rows"]]
        held["comparisons"] = [*kept, result]
    return result


def _same_evaluation(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a.get(k) == b.get(k) for k in ("protocol", "model", "seed")) and _same_data(
        (a["data"], a.get("data_fingerprint", {})), (b["data"], b.get("data_fingerprint", {}))
    )


def _same_comparison(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if any(a.get(k) != b.get(k) for k in ("model", "other", "seed")):
        return False
    if sorted(a.get("protocols", [])) != sorted(b.get("protocols", [])):
        return False
    ours, theirs = (list(r.get("data_fingerprints", {}).items()) for r in (a, b))
    return len(ours) == len(theirs) and all(any(_same_data(x, y) for y in theirs) for x in ours)


def _same_data(a: tuple[str, Data], b: tuple[str, Data]) -> bool:
    """Returns whether two names with fingerprints are of the same data; `_free` may have made the longer name."""
    short, long = sorted((a[0], b[0]), key=len)
    return (long == short or long.endswith(f"/{short}") or long.startswith(f"{short} ")) and not _differ(a[1], b[1])


def _differ(a: Data, b: Data) -> bool:
    return any(a[split] != b[split] for split in a.keys() & b.keys())


def _data_of(held: dict[str, Any], protocol: str | None) -> Iterator[tuple[str, Data]]:
    """Yields name and fingerprints of the data of every record whose data are read as a protocol reads them.

    Protocols of frozen features and comparisons, whose `protocol` is None, read data alike. Detection and fine-tuning
    select images, and compute fingerprints, in ways of their own.
    """
    frozen = {None, *protocols.known()}
    for r in held.get("evaluations", []):
        if r["protocol"] == protocol or {r["protocol"], protocol} <= frozen:
            yield r["data"], r.get("data_fingerprint", {})
    if protocol in frozen:
        for r in held.get("comparisons", []):
            yield from r.get("data_fingerprints", {}).items()


def _free(name: str, data: Data, spec: str, known: list[tuple[str, Data]]) -> str:
    """Returns the name, or the first longer one that no other data use."""
    longer = [end for end in ends(spec) if end.endswith(f"/{name}")] if spec else []
    marked = f"{name} {'-'.join(found[:8] for found in data.values())}"  # if earlier data at this path use all names
    return next((n for n in (name, *longer) if not any(n == k and _differ(data, d) for k, d in known)), marked)
