"""A variant of a benchmark that takes no time and imports nothing, for processes of its own."""


class Metronome:
    """Reports `pace` seconds for each step; has no negative number of steps."""

    def __init__(self, pace: float):
        self.pace = pace

    def seconds(self, steps: int) -> float:
        """Returns the seconds of some steps. Raises ValueError if there are fewer than none."""
        if steps < 0:
            raise ValueError(f"steps is {steps}; it must be 0 or more")
        return self.pace * steps
