"""Lists settings for `--show`: path, value, default, type, and the meaning, which is the comment in the source."""

import ast
import dataclasses
import inspect
import io
import json
import textwrap
import tokenize
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .base import Settings

_WIDEST = 24  # characters of a column, beyond which those on its right move


class Keyword(NamedTuple):
    """A keyword-only argument that is a setting."""

    default: Any
    type: str
    meaning: str


Keywords = Mapping[str, Mapping[str, Keyword]]  # path of a setting that holds keyword arguments -> name -> argument


class Row(NamedTuple):
    """A setting; its path is that of `--set PATH=VALUE`."""

    path: str
    value: str
    default: str
    type: str
    meaning: str


def rows(settings: Settings, keywords: Keywords) -> list[Row]:
    """Returns all settings in the order of their declarations, those of lists by the names of the elements."""
    return list(_rows(settings, "", keywords))


def keywords_of(kind: type, defaults: Mapping[str, Any]) -> dict[str, Keyword]:
    """Returns the arguments whose `defaults` are given, with the types and the comments in the source of the class.

    One that the class doesn't declare is that of the base that does.
    """
    declared: dict[str, tuple[str, str]] = {}
    for each in (c for c in kind.__mro__ if "__init__" in vars(c) and c.__module__ != "builtins"):
        body, comments = _source(each)
        (init,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        for argument in init.args.kwonlyargs:
            annotation = ast.unparse(argument.annotation) if argument.annotation else ""
            declared.setdefault(argument.arg, (annotation, comments.get(argument.lineno, "")))
    return {name: Keyword(default, *declared[name]) for name, default in defaults.items()}


def table(found: list[Row]) -> str:
    """Returns rows as aligned text with a header."""
    lines = [Row("setting", "value", "default", "type", "meaning"), *found]
    widths = [max(len(row[column]) for row in lines) for column in range(4)]
    widths[1:] = [min(width, _WIDEST) for width in widths[1:]]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row.meaning]).rstrip()
        for row in lines
    )


def signature(kind: type) -> str:
    """Returns the fields of a dataclass with their defaults: "size, scale=[0.2, 1.0]"."""
    found = ((field.name, _default(field)) for field in dataclasses.fields(kind))
    return ", ".join(f"{name}={default}" if default else name for name, default in found)


def _rows(holder: Any, path: str, keywords: Keywords) -> Iterator[Row]:
    hints, meanings = typing.get_type_hints(type(holder)), _meanings(type(holder))
    for field in dataclasses.fields(holder):
        value, place = getattr(holder, field.name), path + field.name
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{place}.", keywords)
        elif isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
            for element in value:
                yield from _rows(element, f"{place}.{type(element).__name__}.", keywords)
        elif isinstance(value, dict) and (value or keywords.get(place)):
            yield from _keyword_rows(value, f"{place}.", keywords.get(place, {}))
        else:
            kind = hints[field.name].__name__ if isinstance(hints[field.name], type) else str(hints[field.name])
            kind = kind.replace("typing.", "")
            yield Row(place, _text(value), _default(field), kind, meanings.get(field.name, ""))


def _keyword_rows(given: Mapping[str, Any], path: str, known: Mapping[str, Keyword]) -> Iterator[Row]:
    for name, (default, kind, meaning) in known.items():
        yield Row(path + name, _text(given.get(name, default)), _text(default), kind, meaning)
    for name in (name for name in given if name not in known):
        yield Row(path + name, _text(given[name]), "", "", "")


def _default(field: dataclasses.Field[Any]) -> str:
    """Returns a field's default as text, "" if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return _text(field.default_factory())
    return "" if field.default is dataclasses.MISSING else _text(field.default)


def _text(value: Any) -> str:
    """Returns a value as `--set` takes it; numbers with six digits."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _meanings(kind: type) -> dict[str, str]:
    """Returns the comments behind the declarations of a dataclass's fields; a declaration replaces an inherited one."""
    found: dict[str, str] = {}
    for each in reversed([c for c in kind.__mro__ if dataclasses.is_dataclass(c)]):
        body, comments = _source(each)
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = comments.get(node.lineno, "")
    return found


def _source(kind: type) -> tuple[list[ast.stmt], dict[int, str]]:
    """Returns the body of a class's declaration, and its comments by the number of the line."""
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (declared,) = ast.parse(source).body
    assert isinstance(declared, ast.ClassDef)
    return declared.body, comments
