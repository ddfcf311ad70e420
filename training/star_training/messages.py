"""The messages of a command: notes, details, and progress if stderr is not a terminal. -q and -v select them."""

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

from star_catalog.printing import printable

QUIET, NORMAL, VERBOSE = range(3)
# how messages name the arguments of a training: as the command line and as Python take them
RESUME, ANOTHER_FOLDER = "resume the run (--resume, resume=True)", "another folder (--out, out=...)"
_SILENCE = 20.0  # seconds between lines of progress
_levels = [NORMAL]  # the last one counts
_active: list[Callable[[], str]] = []  # the lines of the work in progress, innermost last


@contextlib.contextmanager
def verbosity(level: int) -> Iterator[None]:
    """While entered, notes are printed unless the level is QUIET, and details if it is VERBOSE."""
    _levels.append(level)
    try:
        yield
    finally:
        _levels.pop()


class Note(UserWarning):
    """A one-line warning for the user of a command, printed without its location in the code."""


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """While entered, Python prints a `Note` as "note: MESSAGE", and any other warning as before.

    It may also decorate a function.
    """
    before = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, Note):
            return f"note: {printable(str(message))}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = formatted  # not showwarning, because catch_warnings(record=True) would record nothing
    try:
        yield
    finally:
        warnings.formatwarning = before


def quiet() -> bool:
    """Returns whether only results and errors are printed."""
    return _levels[-1] == QUIET


def verbose() -> bool:
    """Returns whether details are printed, too."""
    return _levels[-1] == VERBOSE


def say(text: str) -> None:
    """Prints a line to standard output, unless -q was given."""
    if not quiet():
        print(printable(text), flush=True)


def detail(text: str) -> None:
    """Prints a line to standard error if details are wanted."""
    if verbose():
        print(printable(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def busy(line: Callable[[], str]) -> Iterator[None]:
    """While entered, prints `line()` and the time passed to standard error every 20 s, unless that is a terminal.

    The outermost of nested ones prints the lines of all. Of several processes, the first prints.
    """
    ended, began = threading.Event(), time.monotonic()

    def display() -> None:
        while not ended.wait(_SILENCE):
            print(f"{in_progress()} ({duration(time.monotonic() - began)})", file=sys.stderr, flush=True)

    silent = quiet() or sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    thread = None if _active or silent else threading.Thread(target=display, daemon=True)
    _active.append(line)
    if thread:
        thread.start()
    try:
        yield
    finally:
        if thread:
            ended.set()
            thread.join()
        _active.remove(line)


def in_progress() -> str:
    """Returns the lines of nested works, the outermost first: "knn on birds; features of birds: 256 of 300"."""
    return printable("; ".join(line() for line in tuple(_active)))


def duration(seconds: float) -> str:
    """Returns seconds as text: "5 s", "1 min 30 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
