"""Graceful stopping: the first SIGINT, SIGTERM or SIGHUP ends a command with one line, a second one at once.

While a training has something to save, the first one is a request (`StopRequest`); elsewhere it is an exception
(`interrupting`), so that temporary files are removed.

Python calls a handler between two of its instructions: when a signal comes during a long call of C, e.g. a backward
pass, once that call returns. Then several signals may be waiting, and those of one kind are a single call. A handler
that is replaced by SIG_DFL or SIG_IGN while its signal waits is not called: Python drops that signal and prints a
traceback about it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

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

    A second SIGINT or SIGTERM raises KeyboardInterrupt if it comes before the first one could be handled. Afterwards,
    SIGINT raises it, too, once a call of C returns, and SIGTERM ends the process even during one.

    SIGHUP, which a closed terminal sends more than once, is ignored from the second one on, and always where it was
    ignored before, as nohup does. In a thread other than the main one, which can't handle signals, none is stored.

    `notice` is a line that the first signal prints to standard error at once, unless it is SIGHUP.
    """

    def __init__(self, notice: str = "") -> None:
        self.signal: int | None = None
        self._notice = "" if quiet() else notice
        self._before: dict[int, Any] = {}
        self._called: list[int] = []  # the signals whose handler was called
        self._terminal: list[int] = []  # file descriptors

    def __enter__(self) -> "StopRequest":
        if _is_main_thread():
            self._arrivals = _Arrivals()
            hangup = [] if _ignores_hangup() else [signal.SIGHUP]
            self._before = {s: signal.signal(s, self._asked) for s in (signal.SIGINT, signal.SIGTERM, *hangup)}
            self._terminal = [output for output in (1, 2) if os.isatty(output)]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            self._arrivals.close()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._called.append(number)
        came = [number for number in self._arrivals.read() if number in self._before]
        if not {*came} <= {*self._called}:
            return  # Python calls the handlers of the others next
        # a signal that another thread received may be recorded after the call of its handler
        came = max(came, self._called, key=len)
        _by_default({*came}, self._terminal)
        if sum(number != signal.SIGHUP for number in came) > 1:
            raise KeyboardInterrupt(max(came))  # the kernel may deliver several at once, in any order
        self.signal = max(came)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # none is waiting
        if self._notice and self.signal != signal.SIGHUP:
            line = f"{self._notice}\n"
            with contextlib.suppress(OSError):  # not print, which fails if the signal interrupted another print
                os.write(2, (f"\n{line}" if 2 in self._terminal else line).encode())


class _Arrivals:
    """Records every signal that has a Python handler when it comes, also before the handler is called."""

    _open: ClassVar[int] = 0

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        self._before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        _Arrivals._open += 1

    def read(self) -> list[int]:
        """Returns the numbers of all signals so far."""
        with contextlib.suppress(BlockingIOError):
            self._numbers += os.read(self._pipe[0], 65536)
        return self._numbers

    def close(self) -> None:
        """Ends the recording."""
        _Arrivals._open -= 1
        signal.set_wakeup_fd(self._before)
        for end in self._pipe:
            os.close(end)

    @classmethod
    def leave(cls) -> None:
        """Ends the recording in a forked process, whose signals are not those of its parent."""
        if cls._open:
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Arrivals.leave)


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
        _by_default({number}, terminal)
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


def _by_default(came: set[int], terminal: list[int]) -> None:
    """Restores the default effect of the three signals after those in `came` have arrived.

    `terminal` holds the file descriptors of standard output and error that are a terminal.
    The previous handlers are not restored, because a background job ignores SIGINT. The new ones are Python's, because
    others of these signals may be waiting.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    if not _ignores_hangup():
        signal.signal(signal.SIGHUP, _ignore)
    if signal.SIGHUP in came:  # the terminal is closed, and writing to it would be an error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in terminal:
            os.dup2(nowhere, output)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


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
