"""The lineage of a continued pretraining: the earlier runs, from the files beside their weights."""

import contextlib
from pathlib import Path
from typing import Any

from star_catalog import zoo
from star_catalog.reading import json_object
from star_zoo import hub


def start_of(name: str) -> dict[str, Any] | None:
    """Returns the record of the run behind an `init_from`: its recipe, its cost, and its own start, recursively.

    `name` is as in a recipe's `init_from`. Returns None if the model has no record.
    """
    place = hub.place(hub.timm_name(name))
    recipe, results = (_read(place, file) for file in ("recipe.json", "results.json"))
    record = {"recipe": recipe, "training": results.get("training"), "start": results.get("start")}
    return {key: value for key, value in record.items() if value} or None


def _read(place: Path | zoo.Repository, file: str) -> dict[str, Any]:
    """Returns the JSON object in a file beside a model; {} if it is missing or invalid, because it is optional."""
    with contextlib.suppress(OSError, ValueError, zoo.NotAvailable):
        return json_object(zoo.fetch(place, file), file)
    return {}
