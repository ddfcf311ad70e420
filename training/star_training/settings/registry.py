"""Finds functions by name: a recipe or a study is a public function of a package's modules, annotated with its type.

One of the user's own is the only such function of a module, whose dotted path is its name.

Names and descriptions are read from the source, so that the help of a command imports none of the modules.
"""

import ast
import importlib
import importlib.util
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from star_catalog.names import modules, not_found


def known(package: str, returns: str) -> dict[str, str]:
    """Returns the first docstring line of each public function whose annotation is the type `returns`, by name."""
    return {name: line for name, line, _ in sorted(_functions(package, returns))}


def listed(found: dict[str, str]) -> str:
    """Returns the result of `known` in two columns, for the help of a command, in lines of 100 characters at most."""
    indent = max(map(len, found)) + 4
    return "\n".join(
        textwrap.fill(line, 100, initial_indent=f"  {name}".ljust(indent), subsequent_indent=" " * indent)
        for name, line in found.items()
    )


def find(package: str, returns: str, what: str, name: str) -> Callable[..., Any]:
    """Returns a function by its name, or by the dotted path of the user's module that defines it.

    Raises ValueError for an unknown name, with the noun `what` and the known ones, and for a module that can't be
    imported or doesn't define exactly one such function.
    """
    if "." in name:
        return _of_module(name, returns, what)
    found = {each: module for each, _, module in _functions(package, returns)}
    if name not in found:
        raise ValueError(not_found(what, name, sorted(found)))
    return getattr(importlib.import_module(found[name]), name)


def _of_module(path: str, returns: str, what: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ValueError(
            f"{what} {path!r} can't be imported: {error}; install its package, or add its folder to PYTHONPATH"
        ) from error
    found = [name for name, _ in _defined(path, returns)]
    if len(found) != 1:
        raise ValueError(
            f"{what} {path!r} defines {', '.join(found) or 'none'}; the module must define one function `-> {returns}`"
        )
    return getattr(module, found[0])


def _functions(package: str, returns: str) -> Iterator[tuple[str, str, str]]:
    """Iterates over the name, the first docstring line and the module of each function of a package."""
    for module in (f"{package}.{name}" for name in modules(package)):
        for name, line in _defined(module, returns):
            yield name, line, module


def _defined(module: str, returns: str) -> Iterator[tuple[str, str]]:
    """Iterates over the name and the first docstring line of each function of a module."""
    for node in ast.parse(_source(module)).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and _names(node.returns, returns):
            yield node.name, (ast.get_docstring(node) or "").partition("\n")[0]


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.loader is not None, module
    return spec.loader.get_source(module)  # type: ignore[attr-defined]


def _names(annotation: ast.expr | None, kind: str) -> bool:
    """Whether an annotation is a class, by its name alone, after its module, or in quotes."""
    return annotation is not None and ast.unparse(annotation).strip("'\"").rpartition(".")[2] == kind
