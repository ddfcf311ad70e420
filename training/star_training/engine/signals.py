"""Graceful stopping: the first SIGINT, SIGTERM or SIGHUP requests a stop, a second SIGINT or SIGTERM stops at once.

While modules are imported there is nothing to save, and SIGINT stops at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ..messages import quiet


class Stopped(Exception):
    """A signal requested a stop, and the progress so far is saved; `how` completes `reason`."""

    how_in_python = ""  # how to continue, for the message where a function was called

    def __init__(self, number: int, how: str, folder: Path | None = None):
        super().__init__(number, how)
        self.folder = folder  # of the stopped run, if it has one
        self.reason = f"stopped by {signal.Signals(number).name}{how}"
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return f"{self.reason}; {self.how_in_python}" if self.how_in_python else self.reason

    def _render_traceback_(self) -> list[str]:
        """Returns the lines that a notebook displays instead of a traceback, because a stop is no error."""
        return [str(self)]


class StopRequest:
    """While entered, stores the first SIGINT, SIGTERM or SIGHUP in `signal`; further ones have their default effect.

    SIGHUP, which a closed terminal sends more than once, is ignored from the second one on, and always where it was
    ignored before, as nohup does. In a thread other than the main one, which can't handle signals, none is stored.

    `notice` is a line that the first signal prints to standard error at once, unless it is SIGHUP.
    """

    def __init__(self, notice: str = "") -> None:
        self.signal: int | None = None
        self._notice = "" if quiet() else notice
        self._before: dict[int, Any] = {}
        self._terminal: list[int] = []  # file descriptors

    def __enter__(self) -> "StopRequest":
        if _is_main_thread():
            hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
            self._before = {s: signal.signal(s, self._asked) for s in (signal.SIGINT, signal.SIGTERM, *hangup)}
            self._terminal = [output for output in (1, 2) if os.isatty(output)]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        _by_default(number, self._terminal)
        if self._notice and number != signal.SIGHUP:
            line = f"{self._notice}\n"
            with contextlib.suppress(OSError):  # not print, which fails if the signal interrupted another print
                os.write(2, (f"\n{line}" if 2 in self._terminal else line).encode())


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, with their number.

    Further ones, ignored ones and other threads are treated as by `StopRequest`. A forked process ends at once.
    """
    if not _is_main_thread():
        yield
        return
    process, terminal = os.getpid(), [output for output in (1, 2) if os.isatty(output)]

    def asked(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(128 + number)
        _by_default(number, terminal)
        raise KeyboardInterrupt(number)

    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, *hangup)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _by_default(number: int, terminal: list[int]) -> None:
    """Gives signals their default effect once `number` came; `terminal` are the file descriptors of one.

    Not the previous handlers, because a background job ignores SIGINT.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if number == signal.SIGHUP:  # the terminal is closed, and writing to it would be an error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in terminal:
            os.dup2(nowhere, output)


def end_with_parent() -> None:
    """Sends this process SIGTERM when its standard input ends: a pipe that its parent keeps open, and never writes to.

    So it stops, with a checkpoint, also after its parent was killed. Its children inherit the pipe.
    """

    def follow() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def stopping_imports() -> Iterator[None]:
    """While entered, SIGINT ends the process with a line and exit code 130 if it comes during an import.

    A KeyboardInterrupt may get lost there: torch clears every error of its import of NumPy, and goes on without it. A
    handler that isn't Python's own is kept, e.g. that of a background job, which ignores SIGINT.
    """
    if not _is_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            print("\nstopped", file=sys.stderr, flush=True)
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt
