"""`Evaluations`, the results of evaluating a model, and the error for those of which some failed."""

from dataclasses import dataclass
from pathlib import Path

from star_catalog.printing import printable

from ..evaluation.many import Outcome
from ..evaluation.record import Record
from ..reports.tables import Table, by_data, markdown


@dataclass(frozen=True)
class Evaluations:
    """The outcome of each protocol on each data set, displayed as a table."""

    outcomes: list[Outcome]
    file: Path | None = None  # the results.json with the records
    all_reasons: bool = True  # whether to display why a protocol doesn't apply to data that others have results on

    @property
    def records(self) -> list[Record]:
        """The results; the metrics of one are by slug: `records[0].metrics["knn20_top1"].value`."""
        return [outcome.record for outcome in self.outcomes if outcome.record]

    @property
    def table(self) -> Table:
        """The metrics in rows and the data sets in columns, with 95 % intervals; shares in per cent."""
        return by_data(self.records)

    @property
    def reasons(self) -> list[str]:
        """Why results are missing, a line each."""
        measured = {outcome.data for outcome in self.outcomes if outcome.record}
        return [
            printable(f"{outcome.protocol} on {outcome.data} {outcome.end}: {outcome.reason}")
            for outcome in self.outcomes
            if not outcome.record
            and (self.all_reasons or outcome.end != "not applicable" or outcome.data not in measured)
        ]

    def __str__(self) -> str:
        return "\n".join([str(self.table), *self.reasons])

    def _repr_markdown_(self) -> str:
        """Returns the display in a notebook."""
        return "\n".join([markdown(self.table), *(f"- {reason}" for reason in self.reasons)])


class SomeFailed(ValueError):
    """Some of several evaluations failed; `found` holds the others, which are recorded too."""

    def __init__(self, message: str, found: Evaluations):
        super().__init__(message)
        self.found = found
