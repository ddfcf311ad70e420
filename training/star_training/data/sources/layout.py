"""The roles of the sub-folders of a folder of images: splits, classes, or a wrapper around them."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..decode import ARRAY_SUFFIX, IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from ..split_names import by_kind, kind_of, refuse_pairs
from .base import DataError

FORKS = "__MACOSX"  # resource forks, which macOS adds to archives


@dataclass
class Tree:
    """The visible files below a folder; paths are relative to it."""

    images: list[str] = field(default_factory=list)  # sorted, folder by folder
    skipped: list[str] = field(default_factory=list)  # folders that were not searched
    bare: list[str] = field(default_factory=list)  # folders without any image in them or below
    others: list[str] = field(default_factory=list)  # files that are not read
    hidden: list[str] = field(default_factory=list)  # hidden files with the suffix of an image


def walk(folder: Path) -> Tree:
    """Returns all files below a folder, without hidden ones; follows links, but no cycles. Raises OSError.

    Arrays in .npy files are images if there are no others, because beside others they hold labels or features.
    """
    tree = Tree()
    _walk(folder, "", (), tree, IMAGE_SUFFIXES)
    if not tree.images and ARRAY_SUFFIX in map(suffix_of, tree.others):
        tree = Tree()
        _walk(folder, "", (), tree, frozenset([ARRAY_SUFFIX]))
    return tree


def _walk(folder: Path, within: str, above: tuple[tuple[int, int], ...], tree: Tree, suffixes: frozenset[str]) -> None:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link back to a folder that leads here
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path, suffix = within + entry.name, suffix_of(entry.name)
        if entry.is_dir():
            if entry.name.startswith(".") or entry.name == FORKS:
                tree.skipped.append(path)
                continue
            images, bare = len(tree.images), len(tree.bare)
            _walk(folder / entry.name, f"{path}/", (*above, here), tree, suffixes)
            if len(tree.images) == images:
                tree.bare[bare:] = [path]  # in place of the empty ones below it
        elif entry.name.startswith("."):
            tree.hidden += [path] if suffix in suffixes else []
        # a dangling link counts as a bad image, so that data that were not fetched are reported
        elif suffix in suffixes and (entry.is_file() or not os.path.exists(entry.path)):
            tree.images.append(path)
        else:
            tree.others.append(path)


@dataclass(frozen=True)
class Layout:
    """The splits of a folder, each with the path that holds its images: "" or "train/"."""

    splits: dict[str, str]
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()  # splits without a usual name, which only their exact name selects
    loose: tuple[str, ...] = ()  # images beside the folders of splits, in none of them


def layout(images: Sequence[str], folder: Path) -> Layout:
    """Returns the splits among the folders that hold the images. Raises DataError if they are ambiguous.

    A folder named as a split is that split, even if it is the only folder. If there are other folders or images beside
    it, there must be a train split and a held-out one, because otherwise it could be a class. Folders that only wrap
    the splits, or all classes, are skipped, unless images lie elsewhere too.
    """
    prefix = _wrapper(images)
    folders, loose = children(images, prefix)
    place = folder / prefix
    notes = (f"its folder {prefix.rstrip('/')} holds all images and is taken for the data set",) if prefix else ()
    kinds = by_kind(folders, str(place))
    if not kinds:
        refuse_pairs(folders, str(place))
        _refuse_splits_below(images, folder)
        return Layout({"train": prefix}, notes)
    others = tuple(name for name in folders if kind_of(name) is None)
    if (others or loose) and not ("train" in kinds and len(kinds) > 1):
        name = next(iter(kinds.values()))
        beside = f"{others[0]!r}" + (f" and {len(others) - 1} more" if len(others) > 1 else "") if others else "images"
        raise DataError(
            f"{place} holds {name!r}, named as a split, beside {beside}: pass the folder to use, e.g. "
            f"{place / name}; or put all classes into a folder 'train' there, if {name!r} is one of them."
        )
    splits = {name: _inner(images, f"{prefix}{name}/") for name in folders}
    return Layout(splits, notes, others, loose)


def children(images: Sequence[str], prefix: str) -> tuple[list[str], tuple[str, ...]]:
    """Returns the folders right below `prefix` that lead to images, in order, and the images beside them."""
    below = [path for path in images if path.startswith(prefix)]
    parts = [path[len(prefix) :].split("/", 1) for path in below]
    folders = list(dict.fromkeys(first for first, *rest in parts if rest))
    return folders, tuple(path for path, part in zip(below, parts, strict=True) if len(part) == 1)


def _wrapper(images: Sequence[str]) -> str:
    """Returns the path of nested single folders that wrap the splits or at least two classes; else ""."""
    prefix = ""
    while True:
        folders, loose = children(images, prefix)
        if loose or not folders:
            return ""  # with a single class, the top folder is the class
        if len(folders) > 1 or kind_of(folders[0]):
            return prefix
        prefix += f"{folders[0]}/"


def _inner(images: Sequence[str], prefix: str) -> str:
    """Returns the path of a split, including nested single folders that repeat its name: `train/train/`."""
    while True:
        folders, loose = children(images, prefix)
        again = len(folders) == 1 and not loose and kind_of(folders[0])
        if not again or again != kind_of(prefix.rstrip("/").rpartition("/")[2]):
            return prefix
        prefix += f"{folders[0]}/"


def _refuse_splits_below(images: Sequence[str], folder: Path) -> None:
    """Raises DataError if folders of several splits lie side by side somewhere below, because they would be mixed."""
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for path in {path.rpartition("/")[0] for path in images}:
        parts = path.split("/")
        for depth, name in enumerate(parts):
            if kind := kind_of(name):
                kinds["/".join(parts[:depth])][kind] = name
    for parent, found in sorted(kinds.items()):
        if len(found) > 1:
            names = " and ".join(map(repr, sorted(found.values())))
            raise DataError(
                f"{folder / parent} holds the splits {names}, but images lie outside them too: pass {folder / parent} "
                f"itself, or arrange {folder} as train/CLASS and test/CLASS."
            )


def left_out(tree: Tree, found: Layout) -> Iterator[str]:
    """Yields everything below a folder that is in none of its splits, with the reason."""
    unreadable = [path for path in tree.others if suffix_of(path) in UNREADABLE_SUFFIXES]
    others = [path for path in tree.others if suffix_of(path) not in UNREADABLE_SUFFIXES]
    if unreadable:
        yield f"{named(unreadable)} (not readable here)"
    if others:
        yield f"{named(others)} (not images)"
    if tree.hidden:
        yield f"{named(tree.hidden)} (hidden)"
    if found.beside:
        yield f"{named(found.beside)} (no usual name of a split)"
    if found.loose:
        yield f"{named(found.loose)} (beside the splits)"
    if tree.skipped:
        yield f"{named(tree.skipped)} (hidden or system folder)"
    if tree.bare:
        yield f"{named(tree.bare)} (no images)"


def named(names: Sequence[str], total: int | None = None) -> str:
    """Returns up to three names and the number of the rest; of `total` names if not all are given."""
    more = (len(names) if total is None else total) - 3
    return ", ".join(names[:3]) + (f" and {more:,} more" if more > 0 else "")


def suffix_of(path: str) -> str:
    """Returns the suffix of a file in lower case, with its dot; "" without one."""
    return os.path.splitext(path)[1].lower()
