"""The results of a card: the records of a results.json as rows of tables, and the commands that reproduce them."""

from collections.abc import Iterable, Sequence
from typing import Any

from star_catalog.decimals import fixed, significant
from star_zoo import objectives

from ..data.eval_sets.dataset import NO_SPLITS, named
from ..evaluation import protocols
from ..evaluation.metrics import Estimate, Metric
from ..evaluation.record import Record
from .card_training import Made
from .markdown import operand

_ONLINE = {"train": "training", "test": "held-out"}  # images, by split


def measured(records: Sequence[Record], results: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the values of the template: rows of records, comparisons and online evaluations, and commands.

    The commands that reproduce them are for the model `name`.
    """
    metrics = [(record, metric) for record in records for metric in record.listed]
    return {
        "tasks": [_row(record, metric) for record, metric in metrics if metric.is_accuracy],
        "others": [_row(record, metric) for record, metric in metrics if not metric.is_accuracy],
        "comparisons": [_beside(found) for found in results.get("comparisons", [])],
        "online": _online(results.get("online")),
        "online_images": _online_images(results.get("online_images", {})),
        "commands": _commands(name, [r for r in records if r.metrics], results.get("comparisons", [])),
    }


def _row(record: Record, metric: Metric) -> tuple[Any, ...]:
    images = ", ".join(f"{count:,} {split}" for split, count in record.images.items())
    return record.protocol, metric.title, record.data, images, record.seed, metric.text(significant)


def _online(online: Sequence[dict[str, Any]] | None) -> list[tuple[str, str, str]]:
    if not online:
        return []
    first, last = online
    return [(k, fixed(first[k], 3), fixed(last[k], 3)) for k in last if k not in ("step", "epoch")]


def _online_images(images: dict[str, int]) -> str:
    """Returns the numbers of images of the online evaluation; earlier versions recorded none."""
    if not images:
        return "at most 5,000 training and 2,000 held-out images"
    known = [f"{images[split]:,} {kind}" for split, kind in _ONLINE.items() if split in images]
    return f"{' and '.join(known)} images"


def seen(made: Sequence[Made], records: Sequence[Record], results: dict[str, Any]) -> list[str]:
    """Returns a sentence for each evaluated data set without splits whose images a pretraining has used.

    The test images of such a set are a fifth of all, and a pretraining uses all.
    """
    found = [(record.data, str(record.settings.get("test images"))) for record in records]
    for comparison in results.get("comparisons", []):
        found += comparison.get("test images", {}).items()
    divided = dict.fromkeys(data for data, origin in found if origin.endswith(NO_SPLITS))
    runs = [run for run in made if run.kind == "pretraining" and run.source] if divided else []
    used = {named(run.source): run for run in runs}
    return [
        f"{data} has no splits: its test images were also among those of pretraining{_unlabelled(used[data])}."
        for data in divided
        if data in used
    ]


def _unlabelled(run: Made) -> str:
    objective = run.recipe["objective"]
    known = objective in objectives.known() and objectives.SELF_SUPERVISED in objectives.find(objective).tags
    return ", without labels" if known else ""


def _beside(comparison: dict[str, Any]) -> dict[str, Any]:
    """Returns the results of `star-zoo compare`."""
    rows = [
        (
            row["name"],
            row["data"],
            *(fixed(100 * row[which], 1) for which in ("first", "second")),
            Estimate(*map(row["difference"].get, Estimate._fields)).per_cent(),
        )
        for row in comparison["rows"]
    ]
    return {"other": comparison["other"], "interval": comparison["interval"], "rows": rows}


def _commands(name: str, records: Sequence[Record], comparisons: list[dict[str, Any]]) -> list[list[str]]:
    """Returns the words of commands: one per protocol with its data sets, and one per comparison."""
    sets: dict[tuple[str, int], list[str]] = {}
    for record in records:
        if record.protocol in protocols.known():  # fine-tuning and detection have their own commands
            sets.setdefault((record.protocol, record.seed), []).append(record.data)
    model = operand(name.removeprefix("local-dir:"))
    return [["eval", protocol, model, *_options(data, seed)] for (protocol, seed), data in sets.items()] + [
        ["compare", model, operand(c["other"]), *_options(c["data_fingerprints"], c["seed"], c["protocols"])]
        for c in comparisons
    ]


def _options(data: Iterable[str], seed: int, compared: Sequence[str] = ()) -> list[str]:
    protocols_given = ["--protocol", *map(operand, compared)] if compared else []
    return ["--data", *map(operand, data), *protocols_given, *(["--seed", str(seed)] if seed else [])]
