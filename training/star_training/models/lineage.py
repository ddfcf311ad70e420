"""The lineage of a training that starts from a model: the earlier runs, from the files beside their weights."""

import contextlib
from typing import Any

from star_catalog import zoo
from star_catalog.reading import json_object
from star_zoo import hub

from .names import Leaf, leaves, parse
from .resolve import called

# fields of timm's cfg that describe weights, not the network; those of the start don't hold for what is trained from it
OF_WEIGHTS = (
    "tag", "license", "origin_url", "paper_ids", "paper_name", "notes", "description",
    "label_offset", "label_descriptions", "test_input_size", "test_crop_pct", "test_pool_size",
)  # fmt: skip


def start_of(name: str) -> dict[str, Any] | None:
    """Returns the record of the run that made a model: its settings, its cost, and its own start, recursively.

    `name` is a single model's, not a wrapper's. Returns None if the model has no record.
    """
    recipe, finetune, results = (beside(name, f"{file}.json") for file in ("recipe", "finetune", "results"))
    made = {"recipe": recipe, "finetune": finetune}
    record = made | {key: results.get(key) for key in ("training", "start")}
    return {key: value for key, value in record.items() if value} or None


def origin(name: str, licence: str | None, fingerprint: str) -> dict[str, Any]:
    """Returns, for a results.json, the model that a training starts from, and the run that made that model.

    `licence` and `fingerprint` are those of its weights. Returns {} for a model without pretrained weights.
    """
    start = parse(name)
    if all(leaf.untrained for leaf in leaves(start)):
        return {}
    run = start_of(name) if isinstance(start, Leaf) else None
    known = {"name": called(name), "license": licence, "fingerprint": fingerprint}
    return {"pretrained": {"start": known}} | ({"start": run} if run else {})


def beside(name: str, file: str) -> dict[str, Any]:
    """Returns the JSON object in a file beside a single model; {} if it is missing or invalid."""
    place = hub.place(hub.timm_name(name))
    with contextlib.suppress(OSError, ValueError, zoo.NotAvailable):
        return json_object(zoo.fetch(place, file), file)
    return {}
