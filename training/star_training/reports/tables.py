"""Tables of the accuracy of frozen features on each data set, for every protocol that measures an accuracy."""

from typing import Any, NamedTuple

from ..evaluation.record import tells_accuracy
from .loading import Shown


class Table(NamedTuple):
    """Cells are text; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]


def transfer(models: list[Shown]) -> list[Table]:
    """Returns one table per metric: models by data sets, in per cent with 95 % intervals."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for model in models:
        for record in model.evaluations:
            if not tells_accuracy(record):
                continue
            for metric, found in record["metrics"].items():
                cells.setdefault(metric, {})[model.label, record["data"]] = per_cent(found)
    tables = []
    for metric, known in sorted(cells.items()):
        sets = sorted({data for _, data in known})
        rows = [[m.label, *(known.get((m.label, data), "not measured") for data in sets)] for m in models]
        tables.append(
            Table(f"{metric}, %", ["model", *sets], [row for row in rows if set(row[1:]) != {"not measured"}])
        )
    return tables


def compare(models: list[Shown], metrics: list[str]) -> Table:
    """Returns one table of several metrics: a row for each metric and data set, a column for each model.

    Shares are in per cent, other numbers are unscaled; brackets are the 95 % interval.
    """
    cells = {
        (metric, record["data"], model.label): (per_cent if is_share(metric) else _plain)(record["metrics"][metric])
        for model in models
        for record in model.evaluations
        for metric in metrics
        if metric in record["metrics"]
    }
    places = sorted({(metrics.index(metric), data) for metric, data, _ in cells})
    labels = [model.label for model in models]
    rows = [
        [metrics[k] + (", %" if is_share(metrics[k]) else ""), data]
        + [cells.get((metrics[k], data, label), "-") for label in labels]
        for k, data in places
    ]
    return Table("comparison", ["metric", "data", *labels], rows)


def markdown(table: Table) -> str:
    """Returns a table in Markdown."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def is_share(metric: str) -> bool:
    """Whether a metric is a share, which is shown in per cent."""
    return metric.endswith(("top-1", "per class", "-shot", "accuracy")) or "top-1," in metric


def _plain(found: dict[str, Any]) -> str:
    interval = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
    return f"{found['value']:.3f}{interval}"


def per_cent(found: dict[str, Any]) -> str:
    """Returns a share with its interval, in per cent."""
    interval = "" if found["low"] is None else f" [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
    return f"{100 * found['value']:.1f}{interval}"
