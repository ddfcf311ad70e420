"""A results.json: the facts about a model, and the records of its evaluations and comparisons.

Its contents are checked when read (`fields`), because anyone may have written them, and upgraded to the current form
(`old`); one process at a time changes it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from star_catalog.files import locked, sweep, write_json
from star_catalog.reading import json_object, refusing
from star_catalog.writing import NotWritten, check_file

from .fields import check_lists, check_records
from .old import upgrade

_WAY_OUT = "repair it or move it away"


def read(path: Path) -> dict[str, Any]:
    """Returns the contents of a results.json, {} if it is missing. Raises ValueError, naming it, if it is invalid."""
    if not path.exists():
        return {}
    found = json_object(path, "results.json", _WAY_OUT)
    with refusing(f"{path} is not a valid results.json", _WAY_OUT):
        check_lists(found)
        found = upgrade(found)
        check_records(found)
    return found


def check(path: Path) -> None:
    """Raises ValueError or OSError, naming the file, if no record can be added; call it before an evaluation."""
    read(path)
    try:
        check_file(path)
    except NotWritten as error:
        way_out = f"{error.way_out}, or pass another --out FILE to eval and compare"
        raise NotWritten(path, error.reason, way_out) from error


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the contents of a results.json to change in place, then writes them; other processes wait meanwhile."""
    with locked(path.with_name(f".{path.name}.lock")):
        sweep(path.parent, path.name)
        found = read(path)
        yield found
        write_json(path, found)
