"""The message of a training whose loss, features or weights are not finite: what was found, when, and what to try.

A loss that is not finite, or huge, before any update of the weights can't come from the learning rate.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_HUGE = 1e6  # losses of untrained networks are far smaller


class Cause(NamedTuple):
    """What may be changed: `rate`, against steps that are too large, and `settings`, against a loss that is wrong."""

    rate: str
    settings: str


def loss_found(terms: Mapping[str, float], step: int) -> str:
    """Returns the sentence about a loss that is not finite: "the loss is nan at step 3 (its terms: invariant nan)".

    `terms` holds the loss first.
    """
    (_, loss), *others = terms.items()
    wrong = [f"{name} {value:g}" for name, value in others if not math.isfinite(value)]
    named = f" (its terms: {', '.join(wrong)})" if wrong else ""
    return f"the loss is {loss:g} at step {step}{named}"


def explained(found: str, updates: int, first: float | None, rate: float, cause: Cause, good: Path | None) -> str:
    """Returns the message.

    Args:
        found: what is not finite.
        updates: how often the weights had been updated.
        first: the loss at step 1, None if that isn't known, as after a resume.
        rate: the learning rate of the last update.
        cause: the advice against either cause.
        good: the last good checkpoint.
    """
    last = f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"
    if updates == 0:
        return f"{found}, before any update, so the learning rate is not the cause; {last}. Check {cause.settings}"
    if first is not None and not abs(first) < _HUGE:
        start = f"at step 1, before any update, it was {first:g} already, so the learning rate is hardly the cause"
        return f"{found}; {start}; {last}. Check {cause.settings}"
    return f"{found}; the learning rate was {rate:g}; {last}. Try {cause.rate}"
