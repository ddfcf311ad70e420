"""Alternation: all variants are measured in every round, because a machine's speed varies over time."""

import statistics
from collections.abc import Sequence
from typing import Protocol


class Variant(Protocol):
    """One of the variants to compare."""

    @property
    def name(self) -> str: ...

    def seconds(self, steps: int) -> float:
        """Returns the seconds of some steps."""


def take_turns(variants: Sequence[Variant], rounds: int, steps: int) -> list[dict[str, float]]:
    """Returns the seconds of each variant by round, in a rotating order, after one warm-up step of each."""
    for variant in variants:
        variant.seconds(1)  # allocates memory, selects kernels, reads files for the first time
    found = []
    for k in range(rounds):
        first = k % len(variants)
        found.append({v.name: v.seconds(steps) for v in (*variants[first:], *variants[:first])})
    return found


def ratio(seconds: list[dict[str, float]], above: str, below: str) -> dict[str, float]:
    """Returns the ratio of two variants' seconds within a round: its median, least and most over the rounds."""
    found = [each[above] / each[below] for each in seconds]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}
