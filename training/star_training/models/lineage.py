"""What a continued pretraining started from: the runs before it, as the files beside their weights tell."""

import contextlib
import json
from pathlib import Path
from typing import Any

from star_zoo import hub, zoo

from .resolve import timm_name


def start_of(name: str) -> dict[str, Any] | None:
    """The run that made a start: its recipe, what it cost, and in turn its own start; None of what says nothing.

    `name` is as in a recipe's `init_from`.
    """
    place = hub.place(timm_name(name))
    recipe, results = (_read(place, file) for file in ("recipe.json", "results.json"))
    told = {"recipe": recipe, "training": results.get("training"), "start": results.get("start")}
    return {key: value for key, value in told.items() if value} or None


def _read(place: Path | zoo.Repository, file: str) -> dict[str, Any]:
    """A JSON object beside a model; empty where there is none that can be read, for weights may come without."""
    with contextlib.suppress(OSError, RecursionError, ValueError, zoo.NotAvailable):
        found = json.loads(zoo.fetch(place, file).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}
