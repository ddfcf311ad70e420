"""A variant in its own process, so that the memory use of another variant does not change its speed.

The process and its workers are stopped outside its turns: waiting threads and workers that fetch images ahead would
take processors from the other variants.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from .rounds import Variant

_CONTEXT = multiprocessing.get_context("spawn")  # such a process shares no memory with this one


class Elsewhere:
    """A variant that `make(*arguments)` builds in a new process, where it waits for its turns."""

    def __init__(self, name: str, make: Callable[..., Variant], *arguments: Any):
        self.name = name
        self._end, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(other, make, arguments))
        self._process.start()
        self._answered = False
        other.close()

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._signal(signal.SIGCONT if kind is None else signal.SIGKILL)
            self._end.send(None)  # closing is not enough: forked loaders may hold the pipe open
        self._process.join()
        self._end.close()

    def seconds(self, steps: int) -> float:
        """Returns the seconds of some steps there. Raises RuntimeError if they fail."""
        return self._ask("seconds", steps)

    def get(self, attribute: str) -> Any:
        """Returns an attribute of the variant."""
        return self._ask("get", attribute)

    def _ask(self, *question: Any) -> Any:
        try:
            self._signal(signal.SIGCONT)
            self._end.send(question)
            answer = self._end.recv()
            self._answered = True
            self._signal(signal.SIGSTOP)
            return answer
        except (EOFError, OSError) as error:  # its traceback is printed above
            raise RuntimeError(f"the process that measures {self.name!r} ended") from error

    def _signal(self, number: signal.Signals) -> None:
        """Signals the process and its workers, once it has answered, because only then it leads a group."""
        assert self._process.pid is not None
        if self._answered:
            os.killpg(self._process.pid, number)


def _serve(end: Connection, make: Callable[..., Variant], arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    variant = make(*arguments)
    while (question := end.recv()) is not None:
        what, argument = question
        end.send(variant.seconds(argument) if what == "seconds" else getattr(variant, argument))
