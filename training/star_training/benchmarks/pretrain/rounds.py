"""Taking turns: what is compared is measured in the same round, for a machine is now faster and now slower."""

import statistics
from collections.abc import Sequence
from typing import Protocol


class Variant(Protocol):
    """One way to do what is compared."""

    @property
    def name(self) -> str: ...

    def seconds(self, steps: int) -> float:
        """What some steps take."""


def take_turns(variants: Sequence[Variant], rounds: int, steps: int) -> list[dict[str, float]]:
    """Seconds of some steps of each variant, by round; another one begins each round. A step of each comes before."""
    for variant in variants:
        variant.seconds(1)  # allocations, kernels chosen, files read for the first time
    found = []
    for k in range(rounds):
        first = k % len(variants)
        found.append({v.name: v.seconds(steps) for v in (*variants[first:], *variants[:first])})
    return found


def ratio(seconds: list[dict[str, float]], above: str, below: str) -> dict[str, float]:
    """The median over the rounds of one variant's seconds over another's in the same round, and its spread."""
    found = [each[above] / each[below] for each in seconds]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}
