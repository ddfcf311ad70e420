"""Tables of metrics by model and data set. The unit and the kind of a metric determine how it is displayed."""

from collections.abc import Sequence
from typing import NamedTuple

from star_catalog.decimals import fixed
from star_catalog.printing import printable

from ..evaluation.metrics import Estimate, Metric
from ..evaluation.record import Record
from ..publishing.markdown import escape
from .loading import Shown


class Table(NamedTuple):
    """Cells are text; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def __str__(self) -> str:
        lines = [list(map(printable, line)) for line in (self.head, *self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def _repr_markdown_(self) -> str:
        """Returns the display in a notebook."""
        return markdown(self)


def accuracies(models: list[Shown]) -> list[Table]:
    """Returns one table: a row for each data set and model, a column for each accuracy, shares in per cent, with 95 %
    intervals; no table without any.
    """
    columns: dict[str, str] = {}  # title by slug
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for model in models:
        for record in model.evaluations:
            for metric in filter(lambda metric: metric.is_accuracy, record.metrics.values()):
                columns[metric.slug] = metric.title
                cells.setdefault((record.data, model.label), {})[metric.slug] = cell(metric)
    order = [model.label for model in models]
    rows = [
        [data, label, *(cells[data, label].get(slug, "not measured") for slug in columns)]
        for data, label in sorted(cells, key=lambda row: (row[0], order.index(row[1])))
    ]
    return [Table("Accuracy by data set", ["data", "model", *columns.values()], rows)] if rows else []


def comparisons(models: list[Shown]) -> list[Table]:
    """Returns one table of what `star-zoo compare` recorded, in per cent; no table without any."""
    rows = [
        [
            row["data"],
            row["name"],
            f"{model.label}: {fixed(100 * row['first'], 1)}",
            f"{compared['other']}: {fixed(100 * row['second'], 1)}",
            Estimate(*map(row["difference"].get, Estimate._fields)).per_cent(),
        ]
        for model in models
        for compared in model.comparisons
        for row in compared["rows"]
    ]
    head = ["data", "metric, %", "first", "second", "first minus second"]
    return [Table("Comparisons on the same test images", head, rows)] if rows else []


def summary(models: list[Shown]) -> Table:
    """Returns the models with their backbones and their training, "-" where nothing is recorded."""
    head = ["model", "backbone or start", "objective", "images", "epochs", "steps"]
    return Table("Models", head, [[model.label, *_training(model)] for model in models])


def _training(model: Shown) -> list[str]:
    settings = model.settings
    tuned = "model" in settings  # fine-tuned from this one
    objective = "fine-tuning" if tuned else settings.get("objective", "-")
    found = [
        settings.get("model" if tuned else "init_from") or settings.get("backbone", "-"),
        objective,
        settings.get("data", {}).get("source", "-"),
    ]
    return [*map(str, found), str(settings.get("epochs", "-")), "-" if model.steps is None else f"{model.steps:,}"]


def compare(models: list[Shown], slugs: Sequence[str]) -> Table:
    """Returns one table of several metrics: a row for each metric and data set, a column for each model.

    Shares are in per cent, other numbers are unscaled; brackets are the 95 % interval.
    """
    found = {
        (slugs.index(metric.slug), record.data, model.label): metric
        for model in models
        for record in model.evaluations
        for metric in record.metrics.values()
        if metric.slug in slugs
    }
    titles = {k: metric.title for (k, _, _), metric in found.items()}
    cells = {place: cell(metric) for place, metric in found.items()}
    labels = [model.label for model in models]
    places = sorted({(k, data) for k, data, _ in cells})
    rows = [[titles[k], data, *(cells.get((k, data, label), "-") for label in labels)] for k, data in places]
    return Table("comparison", ["metric", "data", *labels], rows)


def markdown(table: Table) -> str:
    """Returns a table in Markdown."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(map(escape, map(printable, line)))} |" for line in lines) + "\n"


def cell(metric: Metric) -> str:
    """Returns the value of a metric with its interval, a share in per cent."""
    return metric.text(lambda value: fixed(value, metric.digits))


def by_data(records: Sequence[Record]) -> Table:
    """Returns one model's listed metrics with their intervals, a row for each, by data set, a column for each.

    Shares are in per cent; the head of the first column is the model's name.
    """
    sets = list(dict.fromkeys(record.data for record in records))
    cells: dict[str, dict[str, str]] = {}
    for record in records:
        for metric in record.listed:
            cells.setdefault(metric.title, {})[record.data] = cell(metric)
    rows = [[name, *(known.get(data, "-") for data in sets)] for name, known in cells.items()]
    return Table("", [records[0].model if records else "metric", *sets], rows)
