"""Stopping politely: the first SIGINT or SIGTERM asks, the second insists."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """While entered, remembers the first SIGINT or SIGTERM in `signal`; a second one acts at once, as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {s: signal.signal(s, self._asked) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
