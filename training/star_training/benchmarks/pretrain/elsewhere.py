"""A variant in a process of its own, so that what another does to the process's memory doesn't change what it takes."""

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from .rounds import Variant


class Elsewhere:
    """A variant that `make(*arguments)` builds in a fresh process, where it waits for its turns."""

    def __init__(self, name: str, make: Callable[..., Variant], *arguments: Any):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments))
        self._process.start()
        other.close()

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._end.send(None)  # closing is not enough: forked loaders may hold the pipe open
        self._process.join()
        self._end.close()

    def seconds(self, steps: int) -> float:
        """What some steps take there. Raises RuntimeError where they fail."""
        return self._ask("seconds", steps)

    def tell(self, attribute: str) -> Any:
        """An attribute of the variant."""
        return self._ask("tell", attribute)

    def _ask(self, *question: Any) -> Any:
        try:
            self._end.send(question)
            return self._end.recv()
        except (EOFError, OSError) as error:  # its traceback stands above
            raise RuntimeError(f"the process that measures {self.name!r} ended") from error


def _serve(end: Connection, make: Callable[..., Variant], arguments: tuple[Any, ...]) -> None:
    variant = make(*arguments)
    while (question := end.recv()) is not None:
        what, argument = question
        end.send(variant.seconds(argument) if what == "seconds" else getattr(variant, argument))
