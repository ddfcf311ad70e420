"""`Comparison`, the differences of two models on the same test images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_catalog.decimals import fixed

from ..evaluation.paired_comparison import Row
from ..evaluation.record import record_comparison
from ..reports.tables import Table, markdown


@dataclass(frozen=True)
class Comparison:
    """Both models' metrics and the differences, first minus second, with their intervals, displayed as a table."""

    first: str
    second: str
    rows: list[Row]
    made: dict[str, Any]  # the comparison as recorded
    specs: list[str]  # of its data sets

    @property
    def table(self) -> Table:
        """The metrics in per cent, a row for each metric and data set."""
        cells = [
            [row.name, row.data, fixed(100 * row.first, 1), fixed(100 * row.second, 1), row.difference.per_cent()]
            for row in self.rows
        ]
        return Table("", ["metric, %", "data", self.first, self.second, "difference [95 % interval]"], cells)

    def store(self, file: Path) -> None:
        """Adds the comparison to a results.json."""
        record_comparison(file, self.made, self.specs)

    def __str__(self) -> str:
        return str(self.table)

    def _repr_markdown_(self) -> str:
        """Returns the display in a notebook."""
        return markdown(self.table)
