"""The best weights of a run by one metric, kept in export_best/ beside export/."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from star_catalog.files import replacing_folder
from star_catalog.writing import going_on

from ...messages import RESUME
from .. import results
from ..logging import evaluations_of, mean_loss, read

LOSS = "loss"  # the only metric that is better if it is smaller
FOLDER = "export_best"


class Best:
    """Exports the weights whenever an evaluation has the best value of a metric so far; the first of equal values.

    `export` writes a folder, and into its results.json the facts that it gets as "best". These are the only state. A
    run that was killed after it wrote the folder, and resumes from an earlier checkpoint, gets the same values again:
    none of them is better, so the folder stays as it is. If the kill came amid the write, the evaluation is repeated.
    Raises ValueError unless the run measures the metric.
    """

    def __init__(self, metric: str, measured: Sequence[str], run: Path, export: Callable[[Path, dict[str, Any]], None]):
        known = (*measured, LOSS)
        if metric not in known:
            raise ValueError(f"run.keep_best is {metric!r}; this run measures {', '.join(known)}: pass one of them")
        self.metric, self.folder, self._log, self._export = metric, run / FOLDER, run / "log.jsonl", export

    def offer(self, metrics: dict[str, float], step: int, epoch: float) -> str:
        """Exports the weights of an evaluation if it is the best; returns a line about it, empty if it isn't.

        Weights before the first step never are. Raises OSError if the export can't be written.
        """
        if step == 0:
            return ""
        value = self._loss(step) if self.metric == LOSS else metrics[self.metric]
        before = results.read(self.folder / "results.json").get("best", {})
        sign = -1 if self.metric == LOSS else 1
        if before.get("metric") == self.metric and sign * value <= sign * before["value"]:
            return ""
        with going_on(RESUME), replacing_folder(self.folder) as part:
            self._export(part, {"metric": self.metric, "value": value, "step": step, "epoch": epoch})
        return f"the best {self.metric} so far: the weights are kept in {self.folder}"

    def _loss(self, step: int) -> float:
        """Returns the mean loss since the previous evaluation."""
        entries = read(self._log)
        earlier = [entry["step"] for entry in evaluations_of(entries) if entry["step"] < step]
        return mean_loss(entries, max(earlier, default=0))
