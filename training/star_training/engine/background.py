"""Runs tasks in a background thread, one at a time; their errors are raised in the main thread."""

import threading
from collections.abc import Callable


class Background:
    """A context manager that runs one task at a time in a thread, and waits for it on exit."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the running task; raises its error unless another exception is active."""
        self._join()
        if kind is None:
            self.check()

    def start(self, work: Callable[[], object]) -> None:
        """Starts a task after the previous one has ended. Raises the previous one's error."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(work,), name="star-zoo background")
        self._thread.start()

    def finish(self) -> None:
        """Waits for the running task and raises its error."""
        self._join()
        self.check()

    def check(self) -> None:
        """Raises the error of a task that has ended, once, without waiting."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # the main thread raises it
            self._error = error
