"""Standard output and error of a command, which goes on without them where nobody reads them any more."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """While entered, writing to a standard stream that is closed has no effect, and raises nothing.

    It may be closed from the start, as by 2>&-, or since its reader has ended, as with `| head -1`. The results of a
    command are in its files.
    """
    with contextlib.ExitStack() as stack:
        for stream, redirect in ((sys.stdout, contextlib.redirect_stdout), (sys.stderr, contextlib.redirect_stderr)):
            used = stream or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect(cast(TextIO, _Lasting(used))))
        try:
            yield
        finally:
            sys.stdout.flush()  # not left to the end of Python, whose own flush would fail and set the exit code


class _Lasting:
    """A text stream that writes to os.devnull after a BrokenPipeError."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._unless_broken(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._unless_broken(self._stream.flush)

    def _unless_broken(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # the stream keeps the text, and writes it there later
            os.close(nowhere)
