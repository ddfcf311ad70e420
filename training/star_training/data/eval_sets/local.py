"""The data sets on this machine, the default of commands that accept several."""

import os
from pathlib import Path

from star_catalog import store

from ..sources.base import DataError
from .transfer import SETS


def home() -> Path:
    """Returns the folder of data sets: `STAR_ZOO_DATA`, or `data` in the local store."""
    return Path(os.path.expanduser(os.environ.get("STAR_ZOO_DATA") or store.home() / "data"))


def found() -> list[str]:
    """Returns the `Splits` specifications of the data sets in `home()`, sorted: Parquet files and folders.

    A folder with the name of one of the paper's data sets (e.g. `pets`) is that data set in torchvision's layout.
    Raises DataError if there is no data set.
    """
    folder = home()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    specs = [_spec(path) for path in entries if path.suffix == ".parquet" or path.is_dir()]
    if not specs:
        reason = "is not a folder" if not folder.is_dir() else "holds no data sets"
        raise DataError(
            f"no data to evaluate on: {folder} {reason}; pass --data, or set STAR_ZOO_DATA to a folder of Parquet "
            "files, folders of images with train/ and test/, and the paper's data sets by name (pets, dtd, ...)."
        )
    return specs


def _spec(path: Path) -> str:
    return f"{path.name}@{path}" if path.name in SETS and path.is_dir() else str(path)
