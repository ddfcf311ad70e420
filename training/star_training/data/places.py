"""A data set as a user names it: a path or a name, and for tables the columns to read.

`FILE.parquet:image=photo,label=species` reads other columns than the usual ones. A bare name, e.g. `cifar10`, is a data
set in the folder of data sets, unless the working folder holds a file or folder of that name.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from star_catalog import store

from .errors import DataError

ROLES = ("image", "label", "split")  # of columns
_COLUMNS = re.compile(r"(?P<place>.+?):(?P<columns>\w+=.+)", re.DOTALL)
_BARE = re.compile(r"[\w.+-]*\w[\w.+-]*")


def home() -> Path:
    """Returns the folder of data sets: `STAR_ZOO_DATA`, or `data` in the local store."""
    return Path(os.path.expanduser(os.environ.get("STAR_ZOO_DATA") or store.home() / "data"))


def split_columns(spec: str) -> tuple[str, dict[str, str]]:
    """Returns a specification without its columns, and the columns by role. Raises DataError for an unknown role."""
    match = _COLUMNS.fullmatch(spec)
    if match is None or spec.startswith("stream:") or os.path.exists(os.path.expanduser(spec)):
        return spec, {}
    columns: dict[str, str] = {}
    for part in re.split(r",(?=\w+=)", match["columns"]):
        role, _, column = part.partition("=")
        if role not in ROLES or not column or role in columns:
            raise DataError(
                f"{spec!r}: {part!r} names no column; write image=COLUMN, label=COLUMN or split=COLUMN, each once, "
                "separated by commas."
            )
        columns[role] = column
    return match["place"], columns


def with_columns(place: str, columns: Mapping[str, str]) -> str:
    """Returns a specification from its parts, the inverse of `split_columns`."""
    return f"{place}:{','.join(f'{role}={column}' for role, column in columns.items())}" if columns else place


def resolved(spec: str) -> str:
    """Returns a specification with `~` expanded, and with the path of a bare name that `home()` holds."""
    place, columns = split_columns(spec)
    path = os.path.expanduser(place)
    if _BARE.fullmatch(place) and not os.path.exists(path):
        found = (home() / f"{place}{suffix}" for suffix in ("", ".parquet"))
        path = next((str(file) for file in found if file.exists()), path)
    return with_columns(path, columns)


def names_at_home() -> list[str]:
    """Returns the names of the files and folders in `home()`, as `resolved` accepts them."""
    folder = home()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path.stem if path.suffix == ".parquet" else path.name for path in entries if not path.name.startswith(".")]
