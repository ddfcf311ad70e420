"""Graceful stopping: the first SIGINT or SIGTERM requests a stop, the second one stops at once."""

import signal
from types import FrameType
from typing import Any


class Stopped(Exception):
    """A signal requested a stop, and the progress so far is saved; `how` completes the message."""

    def __init__(self, number: int, how: str):
        super().__init__(f"stopped by {signal.Signals(number).name}{how}")
        self.exit_code = 128 + number


class StopRequest:
    """While entered, stores the first SIGINT or SIGTERM in `signal`; a second one has its default effect."""

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
        # the default effect, not the previous handlers, because a background job ignores SIGINT
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
