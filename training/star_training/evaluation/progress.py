"""The progress of many evaluations with the time left: a bar on a terminal, else a line now and then."""

import threading
import time
from types import TracebackType
from typing import TextIO

from ..engine.logging import in_notebook, progress_bar
from ..messages import duration, quiet

_REFRESH = 1.0  # seconds between updates of a bar
_SILENCE = 20.0  # seconds between lines
_SURE = 0.02  # share of the work after which the time left is stated


class Progress:
    """Counts work in images passed through the model; other work is converted to as many images as take as long.

    While entered, a thread displays the progress, so that it is up to date during long computations too.
    """

    def __init__(self, total: float, file: TextIO):
        self._file, self._terminal = file, file.isatty() or in_notebook()
        self._done, self._left, self._label = 0.0, total, ""
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._display, daemon=True)
        self._bar = progress_bar(
            file=file, disable=not self._terminal, bar_format="{percentage:3.0f}%|{bar:20}| {desc}", total=total
        )

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._bar.close()

    def begin(self, label: str) -> None:
        """States the work that begins."""
        self._label = label

    def advance(self, work: float) -> None:
        """Counts finished work."""
        self._done += work
        self._left = max(0.0, self._left - work)

    def skip(self, work: float) -> None:
        """Removes work that needn't be done, e.g. for features that are in the cache."""
        self._left = max(0.0, self._left - work)

    def line(self) -> str:
        """Returns the progress as text: "cifar100, linear: 40 % in 1 min 30 s, about 2 min 10 s left"."""
        passed = time.monotonic() - self._began
        share = self._done / (self._done + self._left) if self._done else 0
        if share < _SURE:
            return f"{self._label}: {duration(passed)}"
        left = passed * self._left / self._done
        return f"{self._label}: {100 * share:.0f} % in {duration(passed)}, about {duration(left)} left"

    def _display(self) -> None:
        while not self._stopped.wait(_REFRESH if self._terminal else _SILENCE):
            if self._terminal:
                self._bar.total, self._bar.n = self._done + self._left, self._done
                self._bar.set_description_str(self.line())
            elif not quiet():
                print(self.line(), file=self._file, flush=True)
