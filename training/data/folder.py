"""A folder of images: class sub-folders, or flat; with or without sub-folders for the splits."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .contents import fingerprint, of_files
from .decode import IMAGE_SUFFIXES
from .raw import SPLITS, choose_split, has_splits, number_names
from .source import DataError


@dataclass(frozen=True)
class FolderImages:
    """The image files of one split; see `open_folder`."""

    root: Path
    files: tuple[str, ...]  # relative to root, in sorted order
    classes: tuple[str, ...] | None
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def fingerprint(self) -> str:
        """That of the files' names under the root and of their contents."""
        contents = of_files([self.root / file for file in self.files])
        return fingerprint("folder", self.files, contents, classes=self.classes, targets=self.targets)

    def encoded(self, index: int) -> Path:
        return self.root / self.files[index]

    def describe(self, index: int) -> str:
        return str(self.root / self.files[index])


def open_folder(folder: Path, split: str) -> FolderImages:
    """The images of one split of a folder. Raises DataError where there are none.

    Sub-folders `train` and one of `test`, `val`, `valid`, `validation` are splits; without them all is "train".
    Inside a split, sub-folders are classes: their sorted names, over all splits, number the labels. Images that lie
    beside the sub-folders leave the split unlabelled. Hidden entries are ignored, links followed.
    """
    try:
        splits = _splits(folder)
        root = splits[choose_split(split, splits, str(folder))]
        found = tuple(_images(root))
        classes = tuple(sorted({name for part in splits.values() for name in _subfolders(part)}))
    except OSError as error:
        raise DataError(f"can't read the folder {folder}: {error}.") from error
    if not found:
        raise DataError(
            f"no images found in {root}; expected class sub-folders or images ({', '.join(sorted(IMAGE_SUFFIXES))}). "
            "For Parquet files or tar shards give the folder that holds them itself."
        )
    files = tuple(file for file, _ in found)
    if any("/" not in file for file in files):
        return FolderImages(root, files, None, None)
    targets = number_names((file.split("/", 1)[0] for file in files), classes)
    return FolderImages(root, files, classes, targets)


def _splits(folder: Path) -> dict[str, Path]:
    names = _subfolders(folder)
    return {name: folder / name for name in SPLITS if name in names} if has_splits(names) else {"train": folder}


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _images(folder: Path, within: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, int]]:
    """(relative path, bytes) of every image under `folder`, sorted; a link back to one of the folders `above` ends."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _images(folder / entry.name, f"{within}{entry.name}/", (*above, here))
        elif os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES:
            continue
        elif entry.is_file():
            yield within + entry.name, entry.stat().st_size
        elif not os.path.exists(entry.path):
            yield within + entry.name, 0  # a dangling link counts as a bad image: data not fetched should not go unseen
