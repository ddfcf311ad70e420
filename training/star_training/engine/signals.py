"""Graceful stopping: the first SIGINT, SIGTERM or SIGHUP ends a command with one line, a second one at once.

While a training has something to save, the first one is a request (`StopRequest`); elsewhere it is an exception
(`interrupting`), so that temporary files are removed.
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

    @classmethod
    def by(cls, interrupt: KeyboardInterrupt, how: str = "", folder: Path | None = None) -> "Stopped":
        """Returns the stop that an interrupt requested, by SIGINT unless `interrupting` gave it another number."""
        return cls(interrupt.args[0] if interrupt.args else signal.SIGINT, how, folder)

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
            hangup = [] if _ignores_hangup() else [signal.SIGHUP]
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
    """While entered, SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt with their number.

    During an import, they end the process with a line and their exit code instead: a KeyboardInterrupt may get lost
    there, because torch clears every error of its import of NumPy, and goes on without it. A handler of SIGINT that
    isn't Python's own is kept, e.g. that of a background job, which ignores SIGINT. Further signals, ignored ones and
    other threads are treated as by `StopRequest`. A forked process ends at once.
    """
    if not _is_main_thread():
        yield
        return
    process, terminal = os.getpid(), [output for output in (1, 2) if os.isatty(output)]

    def asked(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(128 + number)
        _by_default(number, terminal)
        if _is_importing(frame):
            print(f"\nstopped by {signal.Signals(number).name}", file=sys.stderr, flush=True)
            os._exit(128 + number)
        raise KeyboardInterrupt(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    kept = {signal.SIGINT: before[signal.SIGINT] is not signal.default_int_handler, signal.SIGHUP: _ignores_hangup()}
    for number in before:
        if not kept.get(number):
            signal.signal(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exiting(code: int) -> None:
    """Makes any further signal exit this process at once with `code`: its command is complete, only Python must end."""

    def exit_now(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):  # e.g. a closed pipe, or a flush that the signal interrupted
            sys.stdout.flush()
        os._exit(code)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, exit_now)


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


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _ignores_hangup() -> bool:
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _is_importing(frame: FrameType | None) -> bool:
    """Returns whether a frame, or one that called it, is that of an import."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
