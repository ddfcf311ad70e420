"""The progress of evaluations with the time left: a bar on a terminal, else a line now and then."""

import contextlib
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from ..engine.logging import in_notebook, progress_bar
from ..messages import busy, duration, in_progress

_REFRESH = 1.0  # seconds between updates of a bar
_BAR = "{percentage:3.0f}%|{bar:20}| "
_SURE = 0.02  # share of the work after which the time left is stated


class Progress:
    """Counts work in images passed through the model; other work is converted to as many images as take as long.

    While entered, a thread displays the progress, so that it is up to date during long computations too. `file` is the
    stream of the bar. Without a total, the work isn't counted.
    """

    def __init__(self, total: float | None, file: TextIO):
        self._terminal = file.isatty() or in_notebook()
        self._done, self._left, self._label = 0.0, total or 0.0, ""
        self._began = time.monotonic()
        self._shown = contextlib.ExitStack()
        self._bar = progress_bar(
            file=file,
            disable=not self._terminal,
            bar_format=f"{_BAR if total else ''}{{desc}}",
            total=total,
            leave=bool(total),
        )

    def __enter__(self) -> "Progress":
        self._shown.enter_context(busy(self.line))
        if self._terminal:
            self._shown.enter_context(self._updated())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()
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
        """Returns the progress as text: "linear on cifar100: 40 %, about 2 min 10 s left"."""
        share = self._done / (self._done + self._left) if self._done else 0
        if share < _SURE:
            return self._label
        left = (time.monotonic() - self._began) * self._left / self._done
        return f"{self._label}: {100 * share:.0f} %, about {duration(left)} left"

    @contextlib.contextmanager
    def _updated(self) -> Iterator[None]:
        """While entered, a thread keeps the bar up to date."""
        stopped = threading.Event()

        def display() -> None:
            while not stopped.wait(_REFRESH):
                if self._bar.total:
                    self._bar.total, self._bar.n = self._done + self._left, self._done
                self._bar.set_description_str(f"{in_progress()} ({duration(time.monotonic() - self._began)})")

        thread = threading.Thread(target=display, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
