"""Runs tasks in a background thread, one at a time; their errors are raised in the main thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """A context manager that runs one task at a time in a thread, and waits for it on exit."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "star-zoo background")
        self._task: Future[object] | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the running task; raises its error unless another exception is active."""
        self._thread.shutdown()
        if kind is None:
            self.finish()

    def start(self, work: Callable[[], object]) -> None:
        """Starts a task after the previous one has ended. Raises the previous one's error."""
        self.finish()
        self._task = self._thread.submit(work)

    def finish(self) -> None:
        """Waits for the running task and raises its error, once."""
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def check(self) -> None:
        """Raises the error of a task that has ended, once, without waiting."""
        if self._task is not None and self._task.done():
            self.finish()
