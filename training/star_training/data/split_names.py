"""Recognises the names of splits among folders, files and values, by one table for every kind of data set."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from .sources.base import DataError, NoSuchSplit, OneSplit

# Split -> usual spellings. Case is ignored; "train_set", "train-images" and "train2017" are recognised too.
_SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
_KIND_OF = {name: kind for kind, names in _SPELLINGS.items() for name in names}
_NAME = re.compile(rf"({'|'.join(_KIND_OF)})([ _.-]?(set|split|data|images?|imgs?))?([ _.-]?(19|20)\d\d)?", re.ASCII)


def split_names(split: str) -> tuple[str, ...]:
    """Returns the names under which a data set may have `split`, best first."""
    return _SPELLINGS.get(split, (split,))


def kind_of(name: str) -> str | None:
    """Returns the split "train", "val" or "test" that a name means, ignoring case; None for other names."""
    match = _NAME.fullmatch(name.lower())
    return _KIND_OF[match[1]] if match else None


def by_kind(names: Iterable[str], where: str) -> dict[str, str]:
    """Returns the names of splits, keyed by "train", "val", "test". Raises DataError if two mean the same split."""
    found: dict[str, str] = {}
    for name in sorted(names):
        kind = kind_of(name)
        if kind is None:
            continue
        if kind in found:
            raise DataError(
                f"{where} has both {found[kind]!r} and {name!r}, two names of one split: merge them, or rename the one "
                "that shouldn't be used."
            )
        found[kind] = name
    return found


def choose_split(split: str, available: Collection[str], where: str) -> str:
    """Returns the name among `available` that `split` means: one of its usual spellings, or its exact name.

    A validation split is never returned for "test"; only `Splits` decides which split replaces a missing one. Raises
    NoSuchSplit if there is none, OneSplit if the training split is the only one, DataError if two mean the same split.
    """
    if split not in _SPELLINGS and split in available:
        return split
    if found := by_kind([name for name in available if kind_of(name) == split], where):
        return found[split]
    error = OneSplit if set(map(kind_of, available)) == {"train"} else NoSuchSplit
    raise error(f"no split {split!r} in {where}: it has {', '.join(map(repr, sorted(available))) or 'none'}.")


def of_split(split: str, available: Collection[str]) -> str:
    """Returns " of the split 'test'", for messages about the images of one of several splits; "" for the only one."""
    return f" of the split {split!r}" if len(available) > 1 else ""


def refuse_pairs(names: Collection[str], where: str) -> None:
    """Raises DataError if names differ only in the word for a split, e.g. `seg_train` and `seg_test`."""
    rests: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in sorted(names):
        words = re.split(r"[ _.-]+", name.lower())
        for place, word in enumerate(words):
            if word in _KIND_OF:
                rests[(*words[:place], "", *words[place + 1 :])][_KIND_OF[word]] = name
    for pair in rests.values():
        if len(pair) > 1:
            both = " and ".join(map(repr, pair.values()))
            raise DataError(f"{where} has {both}, which seem to be splits: name them train, val or test.")


def files_by_split(files: Iterable[Path], where: str) -> Mapping[str, list[Path]]:
    """Groups files by the split in their names, e.g. `test-00000-of-00001.parquet` or `birds-train.tar`.

    If no name has a split, all files are "train". If there are a train split and a held-out one, the other files form
    splits of their own, named by the first word of the file name. Raises DataError if a file's split is ambiguous.
    """
    files = sorted(files)
    groups: dict[str, list[Path]] = defaultdict(list)
    rest: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        words = re.split(r"[-_.]", file.name)
        named = [word for word in words[:-1] if kind_of(word)]
        if named and (kind_of(words[0]) or len(set(map(kind_of, named))) == 1):
            groups[named[0]].append(file)
        else:
            rest[words[0]].append(file)
    kinds = by_kind(groups, where).keys()
    if not kinds:
        return {"train": files}
    if rest and not ("train" in kinds and len(kinds) > 1):
        other, (first, *_) = next(iter(rest.values()))[0], next(iter(groups.values()))
        raise DataError(
            f"{where} holds {first.name}, named as a split, and {other.name}, which may be train or test: begin "
            "every name with train-, val- or test-, or pass the files of one split alone."
        )
    return {**groups, **rest}
