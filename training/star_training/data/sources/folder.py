"""A folder of images: class sub-folders, or flat; with or without sub-folders for the splits."""

import functools
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..contents import fingerprint, of_files
from ..decode import IMAGE_SUFFIXES
from ..split_names import choose_split, kind_of, of_split
from .base import NOT_TAKEN, DataError, Inventory, NoSuchSplit
from .layout import children, layout, left_out, named, walk
from .raw import number_names


@dataclass(frozen=True)
class FolderImages:
    """The image files of one split; see `open_folder`."""

    root: Path
    files: tuple[str, ...]  # relative to root, in sorted order
    classes: tuple[str, ...] | None
    targets: Tensor | None
    inventory: Inventory = NOT_TAKEN

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the files' paths under the root and of their contents."""
        contents = of_files([self.root / file for file in self.files])
        return fingerprint("folder", self.files, contents, classes=self.classes, targets=self.targets)

    def encoded(self, index: int) -> Path:
        return self.root / self.files[index]

    def describe(self, index: int) -> str:
        return str(self.root / self.files[index])


def open_folder(folder: Path, split: str) -> FolderImages:
    """Opens one split of a folder of images. Raises DataError if it has none, or if its splits are ambiguous.

    Sub-folders named as splits are splits (see `layout`); without them, all images are "train". Inside a split, the
    sub-folders that hold images are classes, numbered by their sorted names over all splits. Images beside the
    sub-folders leave the split unlabelled. Hidden entries and `__MACOSX` are not read; links are followed.
    """
    try:
        tree = walk(folder)
    except OSError as error:
        raise DataError(f"can't read the folder {folder}: {error}.") from error
    if not tree.images:
        found = f", found only other files: {named(tree.others)}" if tree.others else ""
        raise DataError(
            f"no images found in {folder}; expected class sub-folders or images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}){found}. "
            "For Parquet files or tar shards, pass the folder that holds them directly."
        )
    splits = layout(tree.images, folder)
    absent = tuple(left_out(tree, splits))
    try:
        chosen = choose_split(split, splits.splits, str(folder))
    except NoSuchSplit as error:
        rest = f" Left out: {'; '.join(absent)}." if absent else ""
        raise type(error)(f"{error}{rest}") from None
    prefix = splits.splits[chosen]
    root, files = folder / prefix, tuple(_below(tree.images, prefix))
    counts = {name: len(_below(tree.images, inner)) for name, inner in splits.splits.items()}
    loose = [file for file in files if "/" not in file]
    why = ""
    if loose and len(loose) < len(files):
        of = of_split(chosen, splits.splits)
        why = f"{len(loose):,} of {len(files):,} images{of} lie beside the class folders, e.g. {loose[0]}"
    inventory = Inventory(counts, splits.notes, absent, why)
    if loose:
        return FolderImages(root, files, None, None, inventory)
    of_splits = {inner for name, inner in splits.splits.items() if kind_of(name)} | {prefix}
    classes = tuple(sorted({name for inner in of_splits for name in children(tree.images, inner)[0]}))
    targets = number_names((file.split("/", 1)[0] for file in files), classes)
    return FolderImages(root, files, classes, targets, inventory)


def _below(images: list[str], prefix: str) -> list[str]:
    return [path[len(prefix) :] for path in images if path.startswith(prefix)]
