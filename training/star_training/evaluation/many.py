"""Many evaluations of one model: all given protocols on each of several data sets.

Features are extracted once for each data set. A finished result is stored at once, and found again by a later call. An
evaluation that fails doesn't end the others.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from star_catalog.reading import one_line

from ..data.eval_sets.dataset import Splits
from ..data.sources.base import NoSuchSplit
from ..errors import unexpected
from . import finished
from .frozen_model import FrozenModel
from .metrics import NotApplicable, TooFew
from .progress import Progress
from .record import Record, evaluate

_UNKNOWN = 10_000  # images of a data set that can't be counted without reading it
_PROTOCOL = 3_000, 0.15  # images that take as long as a protocol: a constant, and a share of the data set's images


class Outcome(NamedTuple):
    """The result of a protocol on a data set, or the reason why there is none."""

    data: str
    spec: str
    protocol: str
    record: Record | None
    reason: str = ""
    end: Literal["done", "not applicable", "left out", "failed"] = "done"  # left out: no such split, too few images


def work(splits: Splits, protocols: Sequence[str]) -> float:
    """Returns the work of evaluating a data set, as a number of images for `Progress`."""
    images = splits.expected_images or _UNKNOWN
    return images + len(protocols) * _of_protocol(images)


def _of_protocol(images: int) -> float:
    constant, share = _PROTOCOL
    return constant + share * images


def outcomes(
    model: FrozenModel, data: list[Splits], protocols: Sequence[str], seed: int, progress: Progress
) -> Iterator[Outcome]:
    """Yields the outcome of each protocol on each data set; removes data sets from the list, to free their images."""
    while data:
        splits = data.pop(0).reading(model.channels)
        images = splits.expected_images or _UNKNOWN
        extracted = 0

        def passed(count: int) -> None:
            nonlocal extracted
            extracted += count
            progress.advance(count)

        model.extracted = passed
        for protocol in protocols:
            progress.begin(f"{protocol} on {splits.name}")
            found, again = _outcome(model, splits, protocol, seed)
            (progress.skip if again else progress.advance)(_of_protocol(images))
            yield found
        progress.skip(images - extracted)
        model.forget()


def _outcome(model: FrozenModel, splits: Splits, protocol: str, seed: int) -> tuple[Outcome, bool]:
    """Returns the outcome, and whether nothing had to be computed for it."""
    place = splits.name, splits.spec, protocol
    try:
        key = finished.key(protocol, model, splits, seed)
        if record := finished.read(key):
            return Outcome(*place, record), True
        record = evaluate(protocol, model, splits, seed)
        finished.write(key, record)
        return Outcome(*place, record), False
    except NotApplicable as error:
        return Outcome(*place, None, one_line(error), "not applicable"), True
    except (NoSuchSplit, TooFew) as error:
        return Outcome(*place, None, one_line(error), "left out"), True
    except (ValueError, OSError) as error:
        return Outcome(*place, None, one_line(error), "failed"), True
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return Outcome(*place, None, f"unexpected {unexpected(error)}", "failed"), True
