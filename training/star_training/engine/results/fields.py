"""The fields of a results.json with their types, which are checked before anything uses them. Other fields are free."""

import types
import typing
from typing import Any

from ...settings.base import in_words

_DATA = dict[str, str]  # the fingerprint of each split
_OPTIONAL = float | None

# the lists of records: the fields that identify a record, then the others
_EVALUATION = (
    {"protocol": str, "data": str, "seed": int},
    {
        "model": str,
        "model_fingerprint": str,
        "data_fingerprint": _DATA,
        "images": dict[str, int],
        "settings": dict[str, Any],
        "metrics": dict[str, dict[str, Any]],
        "details": dict[str, Any],
        "seconds": float,
        "versions": dict[str, Any],
    },
)
_COMPARISON = (
    {"other": str, "seed": int, "rows": list[dict[str, Any]]},
    {
        "model": str,
        "protocols": list[str],
        "data_fingerprints": dict[str, _DATA],
        "test images": dict[str, str],
        "interval": str,
        "versions": dict[str, Any],
    },
)
_METRIC = (
    {"name": str, "unit": str, "kind": str, "value": float},
    {"low": _OPTIONAL, "high": _OPTIONAL, "averaged_as": list[str] | None, "listed": bool},
)
_ROW: tuple[dict[str, Any], dict[str, Any]] = (
    {"metric": str, "name": str, "data": str, "first": float, "second": float, "difference": dict[str, Any]},
    {},
)
_DIFFERENCE = ({"value": float}, {"low": _OPTIONAL, "high": _OPTIONAL})
_BEST: tuple[dict[str, Any], dict[str, Any]] = ({"metric": str, "value": float}, {})
_FILE: tuple[dict[str, Any], dict[str, Any]] = (
    {},
    {
        "evaluations": list[dict[str, Any]],
        "comparisons": list[dict[str, Any]],
        "training": dict[str, Any],
        "online": list[dict[str, Any]],
        "online_images": dict[str, int],
        "start": dict[str, Any],
        "pretrained": dict[str, dict[str, Any]],
        "released": dict[str, Any],
        "best": dict[str, Any],
    },
)


def check_lists(content: dict[str, Any]) -> None:
    """Raises ValueError unless the parts of a results.json have their types, and records the fields of all versions."""
    _check(content, _FILE, "the file")
    if "best" in content:
        _check(content["best"], _BEST, "its best")
    for kind, (needed, _) in (("evaluations", _EVALUATION), ("comparisons", _COMPARISON)):
        for number, record in enumerate(content.get(kind, [])):
            _check(record, (needed, {}), f"number {number} of its {kind}")


def check_records(content: dict[str, Any]) -> None:
    """Raises ValueError unless the records, in their current form, have fields of the right types."""
    for number, record in enumerate(content.get("evaluations", [])):
        check_evaluation(record, f"number {number} of its evaluations")
    for number, record in enumerate(content.get("comparisons", [])):
        where = f"number {number} of its comparisons"
        _check(record, _COMPARISON, where)
        for row in record["rows"]:
            _check(row, _ROW, f"a row of {where}")
            _check(row["difference"], _DIFFERENCE, f"a difference of {where}")
            _check_interval(row["difference"], f"a difference of {where}")


def check_evaluation(record: dict[str, Any], where: str) -> None:
    """Raises ValueError, which begins with `where`, unless a record's fields and its metrics have the right types."""
    _check(record, _EVALUATION, where)
    for slug, metric in record.get("metrics", {}).items():
        _check(metric, _METRIC, f"metric {slug!r} of {where}")
        _check_interval(metric, f"metric {slug!r} of {where}")


def _check(found: dict[str, Any], fields: tuple[dict[str, Any], dict[str, Any]], where: str) -> None:
    needed, more = fields
    if missing := needed.keys() - found.keys():
        raise ValueError(f"{where} lacks {', '.join(sorted(missing))}; it needs {', '.join(needed)}")
    for name, hint in (needed | more).items():
        if name in found and not _fits(found[name], hint):
            raise ValueError(f"{where} has {name} {str(found[name])[:80]!r}; it must be {in_words(hint)}")


def _check_interval(found: dict[str, Any], where: str) -> None:
    if (found.get("low") is None) != (found.get("high") is None):
        raise ValueError(f"{where} has one bound of an interval; it must have both or none")


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether JSON data are of a type: None, str, int, float, a union, list[...] or dict[str, ...]."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, parts[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, parts[1]) for each in value.values())
    return isinstance(value, (int, float) if hint is float else hint) and isinstance(value, bool) == (hint is bool)
