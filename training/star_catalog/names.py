"""Names: of the modules of a package, as slugs, and the error message for an unknown one."""

import difflib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable
from pathlib import Path


def not_found(what: str, name: str, known: Iterable[str]) -> str:
    """Returns a one-line message with the unknown name, the most similar known name and all known names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} {name!r} not found; {hint}known: {', '.join(names) or 'none'}"


def modules(package: str) -> tuple[str, ...]:
    """Returns the names of a package's modules that don't begin with "_", sorted, without importing anything.

    They are those whose files exist, so that a file added to the package is found.
    """
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folders(package)) if not m.name.startswith("_")))


def folders(package: str) -> list[str]:
    """Returns the folders that hold a package's modules, nearly always one, without importing anything."""
    if package in sys.modules:
        return list(sys.modules[package].__path__)  # to which folders may have been added
    top, *inner = package.split(".")
    spec = importlib.util.find_spec(top)  # of a name without dots, because the packages above would be imported
    assert spec is not None and spec.submodule_search_locations is not None, package
    return [str(Path(folder, *inner)) for folder in spec.submodule_search_locations]


def slugify(name: str) -> str:
    """Returns a name in snake case, e.g. "CIFAR-FS, 5 shots" as cifar_fs_5_shots."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
