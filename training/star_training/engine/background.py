"""Work in a thread while the main one goes on: one piece at a time, its error raised in the main thread."""

import threading
from collections.abc import Callable


class Background:
    """Runs what it is given; to be entered, so that nothing is cut off at the end."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the end of what runs; an error of it is raised unless there is one already."""
        self._join()
        if kind is None:
            self.check()

    def start(self, work: Callable[[], object]) -> None:
        """Begins a piece of work, once the one before has ended. Raises what that one raised."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(work,), name="star-zoo background")
        self._thread.start()

    def finish(self) -> None:
        """Waits for the end of what runs, and raises what it raised."""
        self._join()
        self.check()

    def check(self) -> None:
        """Raises, once, what a piece of work raised, without waiting for anything."""
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
        except BaseException as error:  # all of it is the main thread's to raise
            self._error = error
