"""The log of a run: one JSON line per entry in log.jsonl, a progress bar, and optionally a tracker."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from star_catalog.files import write_text
from star_catalog.printing import printable
from star_catalog.reading import refusing
from star_catalog.writing import going_on, writing

from ..messages import RESUME, duration, quiet

if TYPE_CHECKING:
    from accelerate import Accelerator  # which the readers of a log don't need


class Logbook:
    """Writes the log on the main process; does nothing on others. Entries after `step` are removed at the start."""

    def __init__(self, accelerator: "Accelerator", path: Path, step: int, total: int, label: str):
        self.accelerator, self.path = accelerator, path
        self._start, self._step, self._total, self._began = step, step, total, time.monotonic()
        self._shown: dict[str, Any] = {}
        self._recent: list[dict[str, Any]] = []  # entries with losses since the last epoch began
        self.active = accelerator.is_main_process
        if self.active:
            # a killed run may have logged steps after its last checkpoint; they will be logged again
            kept = [entry for entry in read(path) if entry["step"] <= step] if step and path.exists() else []
            write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
            self._recent = [entry for entry in kept if "seconds" in entry]
        accelerator.init_trackers("star-zoo")
        on_others = {} if self.active else {"disable": True}
        self.bar = progress_bar(total=total, initial=step, desc=label, unit="step", **on_others)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes one entry; passes its numbers to the tracker too."""
        if self.active:
            if "seconds" in values:
                self._recent.append({"step": step, **values})
            with going_on(RESUME), writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        self.accelerator.log({k: v for k, v in values.items() if isinstance(v, (int, float))}, step=step)

    def epoch(self, steps: int, terms: Iterable[str]) -> tuple[dict[str, float], float]:
        """Returns the means of loss terms over the last `steps`, and their seconds of training; main process only."""
        after = self._recent[-1]["step"] - steps
        self._recent = [entry for entry in self._recent if entry["step"] >= after]
        began = self._recent[0]["seconds"] if self._recent[0]["step"] == after else 0.0
        return {term: mean_loss(self._recent, after, term) for term in terms}, self._recent[-1]["seconds"] - began

    def progress(self, step: int, shown: dict[str, Any]) -> None:
        """Moves the bar to `step` and displays some values beside it."""
        self._step, self._shown = step, shown
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(step - self.bar.n)

    def line(self) -> str:
        """Returns the progress as text: "step 12 of 100, loss 3.2, img/s 120, about 2 min left"."""
        values = [f"{name} {value}" for name, value in self._shown.items()]
        if done := self._step - self._start:
            passed = time.monotonic() - self._began
            values.append(f"about {duration((self._total - self._step) * passed / done)} left")
        return ", ".join([f"step {self._step} of {self._total}", *values])

    def say(self, text: str) -> None:
        """Prints a line above the bar, unless -q was given."""
        if not quiet():
            self.result(text)

    def result(self, text: str) -> None:
        """Prints a line above the bar."""
        if self.active:
            self.bar.write(printable(text))

    def close(self) -> None:
        """Closes the bar and the tracker."""
        self.bar.close()
        self.accelerator.end_training()


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a log.jsonl, without a last line that a kill truncated.

    Raises ValueError, naming the file and the line, for any other line that is no entry.
    """
    entries = []
    with refusing(f"{path} is not a valid log.jsonl", "remove the line, or move the file away"):
        *lines, last = path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, start=1):
            entries.append(_entry(line, number))
    with contextlib.suppress(RecursionError, ValueError):
        entries.append(_entry(last, len(lines) + 1))
    return entries


def _entry(line: str, number: int) -> dict[str, Any]:
    """Returns the entry of a line: numbers, or lists of them, by name, with a step. Raises ValueError for others."""
    entry = json.loads(line)
    if not isinstance(entry, dict) or not _is_number(entry.get("step")) or not all(map(_is_logged, entry.values())):
        raise ValueError(f"line {number} is {line[:80]!r}, not an object with a step and other numbers")
    return entry


def _is_logged(value: Any) -> bool:
    return all(map(_is_logged, value)) if isinstance(value, list) else _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def evaluations_of(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the entries of a log that hold evaluations of frozen features."""
    return [entry for entry in entries if not {"loss", "router"} & entry.keys()]


def in_notebook() -> bool:
    """Returns whether this process is the kernel of a notebook."""
    return "ipykernel.zmqshell" in sys.modules


def messages() -> TextIO:
    """Returns the stream for messages beside results: standard error; in a notebook, which colours that, the output."""
    return sys.stdout if in_notebook() else sys.stderr


def progress_bar(**settings: Any) -> Any:
    """Returns a tqdm bar; it is silent unless `file` (standard error) is a terminal or this is a notebook.

    In a notebook it is a widget if ipywidgets is installed.
    """
    from tqdm.auto import tqdm

    return tqdm(**{"disable": quiet() or (False if in_notebook() else None), **settings})


def mean_loss(entries: list[dict[str, Any]], after: int = 0, term: str = "loss") -> float:
    """Returns the mean of a loss term over the steps after `after`; each entry is the mean since the previous one."""
    total, before = 0.0, after
    for entry in entries:
        if term in entry and entry["step"] > after:
            total += entry[term] * (entry["step"] - before)
            before = entry["step"]
    return total / (before - after)
