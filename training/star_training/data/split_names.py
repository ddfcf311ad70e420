"""Which names of folders, files and values are those of splits: one table for every kind of data set."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from .sources.base import DataError, NoSuchSplit, OneSplit

# What a user asks for -> usual spellings. In any case, and "train_set", "train-images" or "train2017" too.
_SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
_KIND_OF = {name: kind for kind, names in _SPELLINGS.items() for name in names}
_NAME = re.compile(rf"({'|'.join(_KIND_OF)})([ _.-]?(set|split|data|images?|imgs?))?([ _.-]?(19|20)\d\d)?", re.ASCII)


def split_names(split: str) -> tuple[str, ...]:
    """The names to look for when a user asks for `split`, best first."""
    return _SPELLINGS.get(split, (split,))


def kind_of(name: str) -> str | None:
    """The split "train", "val" or "test" that a name means by itself, in any case; None for other names."""
    match = _NAME.fullmatch(name.lower())
    return _KIND_OF[match[1]] if match else None


def by_kind(names: Iterable[str], where: str) -> dict[str, str]:
    """Those of the names that are splits', by "train", "val", "test". Raises DataError where two mean the same."""
    found: dict[str, str] = {}
    for name in sorted(names):
        kind = kind_of(name)
        if kind is None:
            continue
        if kind in found:
            raise DataError(
                f"{where} has both {found[kind]!r} and {name!r}, two names of one split: join them, or rename the one "
                "that is not to be used."
            )
        found[kind] = name
    return found


def choose_split(split: str, available: Collection[str], where: str) -> str:
    """The one of the `available` splits that a user means by `split`: by its usual spellings, or its exact name.

    "test" is no validation split: which split serves where one is missing, `Splits` alone decides. Raises NoSuchSplit
    where there is none, OneSplit where the training split stands alone, DataError where two mean the same.
    """
    if split not in _SPELLINGS and split in available:
        return split
    if found := by_kind([name for name in available if kind_of(name) == split], where):
        return found[split]
    error = OneSplit if set(map(kind_of, available)) == {"train"} else NoSuchSplit
    raise error(f"no split {split!r} in {where}: it has {', '.join(map(repr, sorted(available))) or 'none'}.")


def refuse_pairs(names: Collection[str], where: str) -> None:
    """Raises DataError where names differ only in the word for a split, as `seg_train` and `seg_test`."""
    rests: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in sorted(names):
        words = re.split(r"[ _.-]+", name.lower())
        for place, word in enumerate(words):
            if word in _KIND_OF:
                rests[(*words[:place], "", *words[place + 1 :])][_KIND_OF[word]] = name
    for pair in rests.values():
        if len(pair) > 1:
            told = " and ".join(map(repr, pair.values()))
            raise DataError(f"{where} has {told}, which seem to be splits: name them train and test, or val.")


def files_by_split(files: Iterable[Path], where: str) -> Mapping[str, list[Path]]:
    """Files by the split in their names, `test-00000-of-00001.parquet` or `birds-train.tar`; all are train without one.

    Beside a train split and something held out, other files count as splits of their own, by the beginning of their
    names. Raises DataError where it is doubtful which split a file belongs to.
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
            f"{where} holds {first.name}, named as a split, beside {other.name}: is that one train or test? Begin "
            "every name with train-, val- or test-, or give the files of one kind alone."
        )
    return {**groups, **rest}
