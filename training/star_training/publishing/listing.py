"""Lists every tag of the zoo and of the local store as a table, without network access."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm

from star_catalog import store, zoo
from star_zoo import objectives, star_backbones

from ..engine.old_results import upgrade
from ..evaluation.record import Record
from . import dataset_terms

_SHOWN = 3  # measured numbers per row


def rows() -> list[tuple[str, ...]]:
    """Returns one row per tag: tag, place of its weights, megabytes, licence, objective of the heads, data, results."""
    tags = {*timm.list_models("star_*", include_tags=True), *store.installed()}
    return [_row(tag) for tag in sorted(tags)]


def _row(tag: str) -> tuple[str, ...]:
    try:
        model: Any = timm.create_model(tag, device="meta")
        cfg = model.pretrained_cfg
    except (RuntimeError, TypeError, ValueError):
        return (tag, f"broken: {store.folder(tag)}", "-", "-", "-", "-", "-")
    place = star_backbones.place(tag)
    licence, data = cfg.get("license") or "not stated", cfg.get("description") or "-"
    if isinstance(place, zoo.Repository):
        where = f"Hub: {place}" if place.revision else "none yet"
        return (tag, where, "-", licence if place.revision else "-", "-", data, "-")
    size = sum((place / name).stat().st_size for name in store.FILES if (place / name).is_file())
    where = "embedded" if place.parent == zoo.EMBEDDED else "local"
    training = (
        _optional(_objective, place / "heads.json") or "-",
        _optional(_data, place / "recipe.json") or data,
        _optional(_measured, place / "results.json") or "-",
    )
    return (tag, where, f"{size / 1e6:.1f}", licence, *training)


def _optional(read: Callable[[Any], str], path: Path) -> str:
    """Returns `read` of a JSON file; empty if the file is missing, or another program wrote it in another format."""
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        return ""


def _objective(heads: dict[str, Any]) -> str:
    name = heads["objective"]
    return name if name in objectives.known() else ""


def _data(recipe: dict[str, Any]) -> str:
    return dataset_terms.of(recipe["data"]["source"]).title


def _measured(results: dict[str, Any]) -> str:
    records = map(Record.from_dict, upgrade(results).get("evaluations", []))
    metrics = [
        f"{metric.name} {metric.value:.3g} ({record.data})" for record in records for metric in record.metrics.values()
    ]
    more = f", {len(metrics) - _SHOWN} more" if len(metrics) > _SHOWN else ""
    return ", ".join(metrics[:_SHOWN]) + more
