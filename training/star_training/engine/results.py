"""A results.json: what is known of a model, and the records of what was measured of it.

It is read with care, since anyone may have written it, and changed by one process at a time.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from star_zoo.files import locked, write_json

# the lists of records, and what decides in each of them whether two records are of the same
_KINDS = {"evaluations": ("protocol", "model", "data", "seed"), "comparisons": ("model", "other", "seed")}


def read(path: Path) -> dict[str, Any]:
    """Returns what a results.json holds, {} where there is none. Raises ValueError, naming it, for what isn't one."""
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
                raise _refused(path, f"number {number} of its {kind} is no record with {', '.join(needed)}")
    return found


def _names_data(record: dict[str, Any]) -> bool:
    """Whether the data of a record have a name and, where there are any, fingerprints by split."""
    by_data = record.get("data_fingerprints", {})
    fingerprints = [record.get("data_fingerprint", {}), *(by_data.values() if isinstance(by_data, dict) else [None])]
    return isinstance(record.get("data", ""), str) and all(isinstance(found, dict) for found in fingerprints)


def _refused(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is not a results.json: {why}; mend it or move it away")


def check(path: Path) -> None:
    """Raises ValueError or OSError, naming the file, where a record could not be added: before anything is measured."""
    read(path)
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        way_out = "make its folder writable, copy the model to one that is, or give eval and compare another --out FILE"
        raise OSError(f"{path} can't be written: {error.strerror}; {way_out}") from error


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """Yields what a results.json holds, to be changed in place, and writes it; other processes wait meanwhile."""
    with locked(path.with_name(f".{path.name}.lock")):
        found = read(path)
        yield found
        write_json(path, found)
