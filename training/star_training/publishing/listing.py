"""Lists every tag of the zoo and of the local store as a table, without network access.

It imports timm only if a model is installed whose architecture or arguments the table of tags doesn't know.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from star_catalog import objectives, store, tags, zoo
from star_catalog.decimals import fixed, significant
from star_catalog.reading import json_object, refusing

from ..engine.results.old import upgrade
from . import dataset_terms

_SHOWN = 3  # measured numbers per row
_PLAIN = {"global_pool", "in_chans"}  # arguments that timm adds to every saved model
_ARCHITECTURES = {tag.partition(".")[0] for tag in tags.TAGS}


def rows() -> list[tuple[str, ...]]:
    """Returns one row per tag: tag, place of its weights, megabytes, licence, objective of the heads, data, results."""
    return [_row(tag) for tag in sorted({*tags.TAGS, *store.installed()})]


def _row(tag: str) -> tuple[str, ...]:
    try:
        row = _installed(tag) if tag in store.installed() else {"license": tags.LICENSE, **tags.TAGS[tag]}
    except (OSError, ValueError):
        return (tag, f"broken: {store.folder(tag)}", "-", "-", "-", "-", "-")
    place = tags.place(tag)
    licence, data = row["license"] or "not stated", row.get("description", "-")
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


def _installed(tag: str) -> dict[str, Any]:
    """Returns the properties of an installed model. Raises an exception if it can't be built."""
    row, arguments = tags.read_config(store.folder(tag) / "config.json")
    if arguments.keys() - _PLAIN or tag.partition(".")[0] not in _ARCHITECTURES:  # timm alone knows if it builds this
        import timm

        import star_zoo  # noqa: F401

        with refusing(tag):
            timm.create_model(tag, device="meta")
    return row


def _optional(read: Callable[[Any], str], path: Path) -> str:
    """Returns `read` of a JSON file; empty if the file is missing, or another program wrote it in another format."""
    with contextlib.suppress(OSError, ValueError), refusing(str(path)):
        return read(json_object(path, path.name))
    return ""


def _objective(heads: dict[str, Any]) -> str:
    name = heads["objective"]
    return name if name in objectives.known() else ""


def _data(recipe: dict[str, Any]) -> str:
    return dataset_terms.of(recipe["data"]["source"]).title


def _measured(results: dict[str, Any]) -> str:
    records = upgrade(results).get("evaluations", [])
    metrics = [
        f"{metric['name']} {_text(metric)} ({record['data']})"
        for record in records
        for metric in record["metrics"].values()
        if metric.get("listed", True)
    ]
    more = f", {len(metrics) - _SHOWN} more" if len(metrics) > _SHOWN else ""
    return ", ".join(metrics[:_SHOWN]) + more


def _text(metric: dict[str, Any]) -> str:
    value = metric["value"]
    return f"{fixed(100 * value, 1)} %" if metric.get("unit") == "share" else significant(value, 3)
