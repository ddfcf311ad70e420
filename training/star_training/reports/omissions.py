"""What a page leaves out, and why: one line for each reason, with the command that measures it."""

from collections.abc import Iterator

from . import details
from .loading import Shown


def of(models: list[Shown], data: list[str]) -> list[str]:
    """Returns the lines; `data` are the data sets whose images are shown."""
    return [*_curves(models), *_protocols(models), *_metrics(models), *_images(data)]


def _curves(models: list[Shown]) -> Iterator[str]:
    if missing := [model.label for model in models if not model.log]:
        yield f"Curves of {', '.join(missing)}: there is no log.jsonl beside the model."


def _protocols(models: list[Shown]) -> Iterator[str]:
    """Yields the figures of protocols for which models have no record."""
    for protocol in details.known():
        missing = [model.label for model in models if model.details(protocol) is None]
        if missing:
            who = "all models" if len(missing) == len(models) else ", ".join(missing)
            yield f"The figure of {protocol} for {who}: needs details that `star-zoo eval {protocol} MODEL` records."


def _metrics(models: list[Shown]) -> Iterator[str]:
    """Yields a line about metrics that the table of accuracies leaves out."""
    others = {m.name for model in models for r in model.evaluations for m in r.listed if not m.is_accuracy}
    if others:
        yield f"{len(others)} metrics that describe features instead of accuracy: the models' cards list them."


def _images(data: list[str]) -> Iterator[str]:
    if not data:
        yield "Nearest neighbours and reconstructions: they need the images; pass their data set with `--data`."
