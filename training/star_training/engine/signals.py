"""Stopping politely: the first SIGINT or SIGTERM asks, the second insists."""

import signal
from types import FrameType
from typing import Any


class Stopped(Exception):
    """A signal asked to stop, and what was done so far is kept; `how` ends the sentence."""

    def __init__(self, number: int, how: str):
        super().__init__(f"stopped by {signal.Signals(number).name}{how}")
        self.exit_code = 128 + number


class StopRequest:
    """While entered, remembers the first SIGINT or SIGTERM in `signal`; a second one acts at once, as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {s: signal.signal(s, self._asked) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        # the usual effect, not the handlers before: a job started in the background ignores SIGINT
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
