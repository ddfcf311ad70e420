"""A results.json: the facts about a model, and the records of its evaluations and comparisons.

Its contents are checked when read, because anyone may have written them, and upgraded to the current form; one process
at a time changes it.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from star_catalog.files import locked, write_json

from .old_results import upgrade

# the lists of records, each with the fields that identify a record
_KINDS = {"evaluations": ("protocol", "model", "data", "seed"), "comparisons": ("model", "other", "seed")}


def read(path: Path) -> dict[str, Any]:
    """Returns the contents of a results.json, {} if it is missing. Raises ValueError, naming it, if it is invalid."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (IsADirectoryError, RecursionError, ValueError) as error:
        raise _refused(path, " ".join(str(error).split())) from error
    if not isinstance(found, dict):
        raise _refused(path, f"it holds {type(found).__name__}, not an object")
    for kind, needed in _KINDS.items():
        records = found.get(kind, [])
        if not isinstance(records, list):
            raise _refused(path, f"its {kind} are {type(records).__name__}, not a list")
        for number, record in enumerate(records):
            if not isinstance(record, dict) or not set(needed) <= record.keys() or not _names_data(record):
                raise _refused(path, f"number {number} of its {kind} is not a record with {', '.join(needed)}")
    try:
        return upgrade(found)
    except (AttributeError, LookupError, TypeError) as error:
        raise _refused(path, f"its metrics are not readable: {error!r}") from error


def _names_data(record: dict[str, Any]) -> bool:
    """Whether the data of a record have a name and, if any, fingerprints by split."""
    by_data = record.get("data_fingerprints", {})
    fingerprints = [record.get("data_fingerprint", {}), *(by_data.values() if isinstance(by_data, dict) else [None])]
    return isinstance(record.get("data", ""), str) and all(isinstance(found, dict) for found in fingerprints)


def _refused(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is not a results.json: {why}; repair it or move it away")


def check(path: Path) -> None:
    """Raises ValueError or OSError, naming the file, if no record can be added; call it before an evaluation."""
    read(path)
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        way_out = (
            "make its folder writable, copy the model to one that is, or pass another --out FILE to eval and compare"
        )
        raise OSError(f"{path} can't be written: {error.strerror}; {way_out}") from error


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the contents of a results.json to change in place, then writes them; other processes wait meanwhile."""
    with locked(path.with_name(f".{path.name}.lock")):
        found = read(path)
        yield found
        write_json(path, found)
