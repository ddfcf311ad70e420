"""The data sets that lie on this machine, for commands that are given none."""

import os
from pathlib import Path

from star_zoo import store

from ..sources.base import DataError
from .transfer import SETS


def home() -> Path:
    """The folder of data sets: `STAR_ZOO_DATA`, or `data` beside the local store."""
    return Path(os.path.expanduser(os.environ.get("STAR_ZOO_DATA") or store.home() / "data"))


def found() -> list[str]:
    """What `Splits` calls the data sets in `home()`, sorted: Parquet files, and folders.

    A folder named as a set of the paper (`pets`) is that set, whatever torchvision downloaded inside. Raises DataError
    where there is none.
    """
    folder = home()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    specs = [_spec(path) for path in entries if path.suffix == ".parquet" or path.is_dir()]
    if not specs:
        told = "is no folder" if not folder.is_dir() else "holds no data sets"
        raise DataError(
            f"no data to evaluate on: {folder} {told}; give --data, or let STAR_ZOO_DATA name a folder of Parquet "
            "files, folders of images with train/ and test/, and sets of the paper by their names (pets, dtd, ...)."
        )
    return specs


def _spec(path: Path) -> str:
    return f"{path.name}@{path}" if path.name in SETS and path.is_dir() else str(path)
