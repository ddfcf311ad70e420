"""A data set as a user names it: a path or a name, and for tables the columns to read, see `star_catalog.columns`.

A bare name, e.g. `cifar10`, is a data set in the folder of data sets, unless the working folder holds a file or folder
of that name.
"""

import os
import re
from pathlib import Path

from star_catalog import store
from star_catalog.columns import split_columns, with_columns

_BARE = re.compile(r"[\w.+-]*\w[\w.+-]*")


def home() -> Path:
    """Returns the folder of data sets: `STAR_ZOO_DATA`, or `data` in the local store."""
    return Path(os.path.expanduser(os.environ.get("STAR_ZOO_DATA") or store.home() / "data"))


def resolved(spec: str) -> str:
    """Returns a specification with `~` expanded, and with the path of a bare name that `home()` holds."""
    place, columns = split_columns(spec)
    path = os.path.expanduser(place)
    if _BARE.fullmatch(place) and not os.path.exists(path):
        found = (home() / f"{place}{suffix}" for suffix in ("", ".parquet"))
        path = next((str(file) for file in found if file.exists()), path)
    return with_columns(path, columns)


def check_outside(path: Path, spec: str) -> None:
    """Raises ValueError for a file or folder to write that is the data, or lies in them and would become a part."""
    data, where = Path(split_columns(resolved(spec))[0]), path.resolve()
    if data.is_dir() and where.is_relative_to(data.resolve()):
        raise ValueError(f"{path} lies in the data, {data}; pass a place outside of it")
    if data.is_file() and where == data.resolve():
        raise ValueError(f"{path} holds the data; pass another file")


def names_at_home() -> list[str]:
    """Returns the names of the files and folders in `home()`, as `resolved` accepts them."""
    folder = home()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path.stem if path.suffix == ".parquet" else path.name for path in entries if not path.name.startswith(".")]
