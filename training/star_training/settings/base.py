"""Settings as frozen dataclasses: saved as JSON, built from JSON with type checks, changed by `--set PATH=VALUE`."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from star_catalog.names import not_found

S = TypeVar("S", bound="Settings")

CHOSEN = ("precision", "channels_last")  # a run chooses these where they are "auto", and keeps its choice


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a computation; a subclass declares fields of plain data or of other dataclasses."""

    command: typing.ClassVar[str] = ""  # that runs a computation with them, if there is one

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON data; `from_dict` is the inverse."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls: type[S], data: dict[str, Any]) -> S:
        """Returns settings from `to_dict`'s data. Raises ValueError for an unknown field, with the known ones."""
        return build(cls, data, "")

    @classmethod
    def resolve(cls, path: str, sign: str, value: Any, data: dict[str, Any]) -> tuple[str, Any]:
        """Returns the path and the data that a change stands for; `data` are the settings so far.

        Those of `--set PATH=VALUE` by default. `sign` is "+" for `PATH+=VALUE`, "-" for `PATH-=VALUE`, else "". A
        subclass may have names for whole parts, and lists with signs. Raises ValueError for any other sign.
        """
        if sign:
            raise ValueError(f"{path}{sign}=: this setting takes no {sign}=; write {path}=VALUE")
        return path, value

    def compared(self) -> dict[str, Any]:
        """Returns `to_dict` without what may differ between two runs of the same weights."""
        found = self.to_dict()
        found.pop("run", None)
        if "data" in found:
            found["data"].pop("source", None)
        return found

    def completed(self: S, before: S) -> S:
        """Returns the settings with values that the start of a run found in its data, as in the settings `before`."""
        return self


# paths with their values, e.g. {"optimizer.lr": 0.06, "policy.augmentations+": "Solarize"}
Changes = Mapping[str, Any] | Iterable[tuple[str, Any]]


def override(settings: S, changes: Sequence[str]) -> S:
    """Returns the settings with changes, e.g. "optimizer.lr=0.06"; a value is parsed as JSON, or else taken as text.

    An element of a list is named by its index, or by its own name, e.g. "policy.augmentations.Blur.p=0.2". Raises
    ValueError for an unknown path, with the known names, and for a value of the wrong type.
    """
    return changed(settings, parse_changes(changes))


def changed(settings: S, changes: Changes) -> S:
    """Returns the settings with changes in their order, values as JSON has them. Raises ValueError as `override`."""
    data = settings.to_dict()
    for given, value in changes.items() if isinstance(changes, Mapping) else changes:
        sign = given[-1:] if given.endswith(("+", "-")) else ""
        path, plain = settings.resolve(given.removesuffix(sign), sign, _plain(given, value), data)
        _assign(data, path.split("."), plain, path)
    return type(settings).from_dict(data)


def parse_changes(texts: Sequence[str]) -> list[tuple[str, Any]]:
    """Returns the paths and values of `--set PATH=VALUE`. Raises ValueError for a text without a value."""
    found = []
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text!r} has no value; write path=value, e.g. optimizer.lr=0.06")
        found.append((path, parse_value(value)))
    return found


def _plain(path: str, value: Any) -> Any:
    """Returns a value as JSON holds it. Raises ValueError for a value that JSON can't hold."""
    try:
        return json.loads(json.dumps(value))
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is {value!r}; pass a number, text, True, False, None, or a list or dict") from error


def differences(a: Settings, b: Settings) -> list[str]:
    """Returns the differences that affect the weights, as lines "path: a's value, b's value".

    A precision or memory layout that is "auto" in `b` is that of `a`. `run` doesn't affect the weights, and
    `data.source` may change: a run compares the images' fingerprint instead.
    """
    flat_a, flat_b = (_flatten(settings.compared()) for settings in (a, adopted(b, a)))
    paths = sorted(set(flat_a) | set(flat_b))
    return [f"{p}: {flat_a.get(p)!r}, {flat_b.get(p)!r}" for p in paths if flat_a.get(p) != flat_b.get(p)]


def adopted(asked: S, before: S) -> S:
    """Returns the settings of a resumed run: those asked for, and where they say "auto", those it was started with."""
    chosen = {name for name in CHOSEN if getattr(asked, name, None) == "auto"}
    return dataclasses.replace(asked, **{name: getattr(before, name) for name in chosen}).completed(before)


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, inner in items for k, v in _flatten(inner, f"{path}.{key}".lstrip(".")).items()}


def parse_value(text: str) -> Any:
    """Returns the value of some JSON; the text itself where it is none."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return text


def _assign(data: Any, keys: list[str], value: Any, path: str) -> None:
    key, rest = keys[0], keys[1:]
    if isinstance(data, list):
        key = _index(data, key, path)  # type: ignore[assignment]
    elif not isinstance(data, dict):
        raise ValueError(f"{path}: {path.rsplit('.' + key, 1)[0]!r} has no fields, it is {data!r}")
    elif key not in data and (rest or not path.startswith(("objective_args.", "backbone_args."))):
        raise ValueError(f"{path}: {not_found('field', key, data)}")
    if rest:
        _assign(data[key], rest, value, path)
    else:
        data[key] = value


def _index(items: list[Any], key: str, path: str) -> int:
    """Returns the index that `key` is, or that of the element with the name `key`."""
    names = [item["name"] for item in items if isinstance(item, dict) and "name" in item]
    if key in names and len(names) == len(items):
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    known = f", or one of {', '.join(names)}" if names else ""
    raise ValueError(f"{path}: {key!r} is not an index; pass a number from 0 to {len(items) - 1}{known}")


def build(kind: type, values: dict[str, Any], path: str) -> Any:
    """Builds a dataclass from a dict. Raises ValueError for unknown or missing fields and for wrong types."""
    names, hints = [f.name for f in dataclasses.fields(kind)], typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ValueError(f"{path} is {values!r}; it has the fields {', '.join(names)}")
    named = path or kind.__name__.lower()
    if unknown := set(values) - set(names):
        raise ValueError(f"{named} has no field {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    if missing := needed - set(values):
        raise ValueError(f"{named} lacks {', '.join(sorted(missing))}")
    return kind(**{k: typed(v, hints[k], f"{path}.{k}".lstrip(".")) for k, v in values.items()})


def _finite(value: Any) -> bool:
    """Whether every number is finite, because JSON can't hold infinity or NaN."""
    if isinstance(value, (dict, list, tuple)):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def kinds(hint: Any) -> tuple[Any, ...]:
    """Returns the classes that a type hint admits, e.g. (dict, NoneType) for `dict[str, float] | None`."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return tuple(typing.get_origin(part) or part for part in parts)


_WORDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    list: ("a list", "lists"),
    tuple: ("a list", "lists"),
    Sequence: ("a list", "lists"),
    dict: ("an object {...}", "objects {...}"),
    Mapping: ("an object {...}", "objects {...}"),
    types.NoneType: ("null", "null"),
}


def in_words(hint: Any, several: bool = False) -> str:
    """Returns a type of JSON data in words, also of several values: "a list of numbers or null"."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(in_words(part, several) for part in typing.get_args(hint))
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    word = _WORDS[kind][several] if kind in _WORDS else getattr(kind, "__name__", str(kind))
    inner = parts[1:2] if kind in (dict, Mapping) else parts[:1]  # a tuple's others are the same, or ...
    return word + "".join(f" of {in_words(part, several=True)}" for part in inner if part is not Any)


def typed(value: Any, hint: Any, path: str) -> Any:
    """Returns a value converted to its field's type. Raises ValueError, naming the path, for any other type."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and not isinstance(value, hint):
        return build(hint, value, path)
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{path} is {value!r}; it must be a list")
        if parts[-1] is Ellipsis:  # of any length
            parts = parts[:1] * len(value)
        if len(value) != len(parts):
            raise ValueError(f"{path} is {value!r}; it must be a list of {len(parts)}")
        return tuple(typed(v, part, f"{path}.{k}") for k, (v, part) in enumerate(zip(value, parts, strict=True)))
    allowed = kinds(hint)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not _finite(value):
        raise ValueError(f"{path} is {value!r}; its numbers must be finite")
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ValueError(f"{path} is {value!r}; it must be {in_words(hint)}")
    return value
