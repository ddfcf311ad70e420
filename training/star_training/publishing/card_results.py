"""The results of a card: the records of a results.json as tables, and the commands that reproduce them."""

import shlex
from collections.abc import Sequence
from typing import Any

from ..evaluation import protocols
from ..evaluation.metrics import Estimate, Metric
from ..evaluation.record import Record


def measured(records: Sequence[Record], results: dict[str, Any], name: str) -> str:
    """Returns records, comparisons and online evaluations of a results.json in Markdown.

    The commands that reproduce them are for the model `name`.
    """
    metrics = [(record, metric) for record in records for metric in record.metrics.values()]
    tasks, others = ([(r, m) for r, m in metrics if m.is_accuracy == wanted] for wanted in (True, False))
    parts = []
    if tasks:
        about = "Intervals are over the test images or tasks of one pretraining run, not over runs."
        parts.append("\n".join([about, "", *_table(tasks)]))
    parts += [_beside(found) for found in results.get("comparisons", [])]
    if online := results.get("online"):
        first, last = online
        lines = [f"| {k} | {first[k]:.3f} | {last[k]:.3f} |" for k in last if k not in ("step", "epoch")]
        head = "Before and after the run, on held-out images:\n\n| metric | before | after |\n|---|---|---|"
        parts.append("\n".join([head, *lines]))
    if others:
        summary = "<details><summary>Properties of features and embeddings</summary>"
        parts.append("\n".join([summary, "", *_table(others), "", "</details>"]))
    if again := _again(name, [r for r in records if r.metrics], results.get("comparisons", [])):
        parts.append(again)
    return "\n\n".join(parts) or "Nothing was measured."


def _beside(comparison: dict[str, Any]) -> str:
    """Returns the results of `star-zoo compare`."""
    other, interval = comparison["other"], comparison["interval"]
    lines = [
        f"Comparison with `{other}` on the same test images; intervals are {interval}:",
        "",
        "| metric | data | this model | the other | difference [95 % interval] |",
        "|---|---|---|---|---|",
    ]
    for row in comparison["rows"]:
        first, second = (f"{row[which]:.4g}" for which in ("first", "second"))
        difference = _value(Estimate(**row["difference"]))
        lines.append(f"| {row['name']} | {row['data']} | {first} | {second} | {difference} |")
    return "\n".join(lines)


def _again(name: str, records: Sequence[Record], comparisons: list[dict[str, Any]]) -> str:
    """Returns the commands that reproduce the numbers: one per protocol with its data sets, and one per comparison."""
    sets: dict[tuple[str, int], list[str]] = {}
    for record in records:
        if record.protocol in protocols.known():  # fine-tuning and detection have their own commands
            sets.setdefault((record.protocol, record.seed), []).append(record.data)
    model = name.removeprefix("local-dir:")
    lines = [
        f"star-zoo eval {protocol} {model} --data {' '.join(data)}{_seed(seed)}"
        for (protocol, seed), data in sets.items()
    ]
    lines += [
        f"star-zoo compare {model} {shlex.quote(found['other'])} --data {' '.join(found['data_fingerprints'])} "
        f"--protocol {' '.join(found['protocols'])}{_seed(found['seed'])}"
        for found in comparisons
    ]
    if not lines:
        return ""
    return "\n".join(["To reproduce the numbers, give paths for data set names:", "", "```bash", *lines, "```"])


def _seed(seed: int) -> str:
    return f" --seed {seed}" if seed else ""


def _table(metrics: Sequence[tuple[Record, Metric]]) -> list[str]:
    rows = [
        f"| {record.protocol} | {metric.name} | {record.data} | {_images(record)} | {record.seed} "
        f"| {_value(metric.estimate)} |"
        for record, metric in metrics
    ]
    return ["| protocol | metric | data | images | seed | value [95 % interval] |", "|---|---|---|---|---|---|", *rows]


def _images(record: Record) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in record.images.items())


def _value(found: Estimate) -> str:
    interval = f" [{found.low:.4g}, {found.high:.4g}]" if found.low is not None else ""
    return f"{found.value:.4g}{interval}"
