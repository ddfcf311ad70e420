"""Finds functions by name: a recipe or a study is a public function of a package's modules, annotated with its type.

Names and descriptions are read from the source, so that the help of a command imports none of the modules.
"""

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from star_catalog.names import modules, not_found


def known(package: str, returns: str) -> dict[str, str]:
    """Returns the first docstring line of each public function whose annotation is the type `returns`, by name."""
    return {name: line for name, line, _ in sorted(_functions(package, returns))}


def listed(found: dict[str, str]) -> str:
    """Returns the result of `known` in two columns, for the help of a command."""
    width = max(map(len, found)) + 2
    return "\n".join(f"  {name:{width}}{line}" for name, line in found.items())


def find(package: str, returns: str, what: str, name: str) -> Callable[..., Any]:
    """Returns a function by name. Raises ValueError for an unknown name, with the noun `what` and the known ones."""
    found = {each: module for each, _, module in _functions(package, returns)}
    if name not in found:
        raise ValueError(not_found(what, name, sorted(found)))
    return getattr(importlib.import_module(found[name]), name)


def _functions(package: str, returns: str) -> Iterator[tuple[str, str, str]]:
    """Iterates over the name, the first docstring line and the module of each function."""
    for module in (f"{package}.{name}" for name in modules(package)):
        for node in ast.parse(_source(module)).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and _names(node.returns, returns):
                yield node.name, (ast.get_docstring(node) or "").partition("\n")[0], module


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.loader is not None, module
    return spec.loader.get_source(module)  # type: ignore[attr-defined]


def _names(annotation: ast.expr | None, kind: str) -> bool:
    """Whether an annotation is a class, by its name alone, after its module, or in quotes."""
    return annotation is not None and ast.unparse(annotation).strip("'\"").rpartition(".")[2] == kind
