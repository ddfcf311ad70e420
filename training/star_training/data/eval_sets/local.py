"""The data sets on this machine, the default of commands that accept several."""

import os
import re
from pathlib import Path

from ..decode import ARRAY_SUFFIX, IMAGE_SUFFIXES
from ..places import home
from ..sources.base import DataError
from ..sources.layout import FORKS
from ..split_names import kind_of
from .transfer import SETS


def found() -> list[str]:
    """Returns the `Splits` specifications of the data sets in `home()`, sorted: Parquet files and folders of images.

    A folder with the name of one of the paper's data sets (e.g. `pets`) is that data set in torchvision's layout.
    Raises DataError if there is no data set.
    """
    folder = home()
    specs = _inside(folder)
    if not specs:
        reason = "is not a folder" if not folder.is_dir() else "holds no data sets"
        raise DataError(
            f"no data to evaluate on: {folder} {reason}; pass --data, or set STAR_ZOO_DATA to a folder of Parquet "
            "files, folders of images with train/ and test/, and the paper's data sets by name (pets, dtd, ...)."
        )
    return specs


def expanded(spec: str) -> list[str]:
    """Returns the data sets that a specification means: those in a folder as in `found`, or the one of another kind.

    A folder of data sets holds several Parquet files, none of them named as a split or as a shard.
    """
    folder = Path(os.path.expanduser(spec))
    packs = [path.stem for path in folder.glob("[!.]*.parquet")] if folder.is_dir() else []
    parts = [name for name in packs if re.search(r"\d-of-\d", name) or any(map(kind_of, re.split(r"[-_.]", name)))]
    return _inside(folder) if len(packs) > 1 and not parts else [spec]


def _inside(folder: Path) -> list[str]:
    entries = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
    return [_spec(path) for path in entries if path.suffix == ".parquet" or _holds_images(path)]


def _holds_images(folder: Path) -> bool:
    suffixes = {".parquet", ".tar", ".arrow", ARRAY_SUFFIX, *IMAGE_SUFFIXES}
    if folder.name in SETS or folder.name == FORKS:
        return folder.name != FORKS
    return any(path.suffix.lower() in suffixes for path in folder.rglob("*"))


def _spec(path: Path) -> str:
    return f"{path.name}@{path}" if path.name in SETS and path.is_dir() else str(path)
