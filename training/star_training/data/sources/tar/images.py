"""The images in the shards of one split, read by offset, with their labels."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...contents import fingerprint, of_files
from ...decode import MOST_ENCODED, UndecodableImage
from ...split_names import choose_split, of_split
from ..base import DataError, Inventory
from ..raw import as_targets, number_names
from .labels import Names, classes_of
from .members import LeftOut, Sample, index, webdataset_key


@dataclass(frozen=True)
class TarImages:
    """The images in some shards; see `open_tar`."""

    shards: tuple[Path, ...]
    keys: tuple[str, ...]
    places: Tensor  # (N, 3) int64: number of the shard, offset, size
    fingerprint: str
    targets: Tensor | None
    classes: tuple[str, ...] | None
    inventory: Inventory

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        if size > MOST_ENCODED:
            raise UndecodableImage(f"{size:,} bytes, more than an image may have, {MOST_ENCODED:,}")
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)

    def describe(self, index: int) -> str:
        return f"{self.keys[index]} in {self.shards[int(self.places[index, 0])]}"


def open_tar(groups: Mapping[str, Sequence[Path]], split: str) -> TarImages:
    """Opens one split of the shards in `groups`, which maps splits to shards. Raises DataError.

    An image is a member whose last extension is an image's, `KEY.jpg`, or a link to one in the same shard; KEY may
    contain dots. Only the first image of a sample is used: `KEY.seg.png` belongs to the sample of `KEY.jpg` if that
    exists, and otherwise is an image of its own. The label is an integer in `KEY.cls`, or in the `.cls` member of KEY
    cut at its first dot. If no image has one, it is the name of a class, in one line, in the `.txt` member instead.
    Unless all images have a label, all are unlabelled.
    """
    where = str(next(iter(groups.values()))[0].parent)
    split = choose_split(split, groups, where)
    chosen, absent, names = groups[split], LeftOut(), Names()
    numbered = [(number, sample) for number, shard in enumerate(chosen) for sample in index(shard, absent, names)]
    if not numbered:
        reasons = f" Left out: {'; '.join(absent.reasons())}." if any(absent.reasons()) else ""
        raise DataError(f"no images found in {chosen[0]}; expected members such as 'KEY.jpg'.{reasons}")
    samples, classes = [sample for _, sample in numbered], None
    if absent.texts and all(sample.label is None for sample in samples):
        others = [shard for group, shards in groups.items() if group != split for shard in shards]
        targets, classes, why = _by_name(samples, others, names, of_split(split, groups))
    else:
        targets, why = _by_number(samples, where, of_split(split, groups))
    if classes:
        absent.texts.clear()
    counts = {group: len(samples) if group == split else None for group in groups}
    files = [shard.name for shard in chosen]
    return TarImages(
        shards=tuple(chosen),
        keys=tuple(sample.key for sample in samples),
        places=torch.tensor([(number, sample.offset, sample.size) for number, sample in numbered]),
        fingerprint=fingerprint("tar", files, of_files(chosen), classes=classes, targets=targets),
        targets=targets,
        classes=classes,
        inventory=Inventory(counts, _together(numbered), tuple(absent.reasons()), why),
    )


def _by_number(samples: Sequence[Sample], where: str, of: str) -> tuple[Tensor | None, str]:
    """Returns the targets of .cls members, and the reason if there are none."""
    targets, why = as_targets([sample.label for sample in samples], where, of)
    if unlabelled := [sample.key for sample in samples if sample.label is None]:
        lacking = f"{len(unlabelled):,} of {len(samples):,} images{of} have no .cls, the first is {unlabelled[0]}"
        why = lacking if len(unlabelled) < len(samples) else "no image has a .cls or .txt"
    return targets, why


def _by_name(
    samples: Sequence[Sample], others: Sequence[Path], names: Names, of: str
) -> tuple[Tensor | None, tuple[str, ...] | None, str]:
    """Returns (targets, classes, reason for no labels) of .txt members, whose classes are those of all splits.

    `others` are the shards of the other splits.
    """
    pooled = [sample for shard in others for sample in index(shard, LeftOut(), names)]
    if any(sample.label is not None for sample in pooled):
        return None, None, "another split has .cls members, and this one .txt members alone"
    if names.captions:
        return None, None, f"the .txt members are captions, not classes: {names.captions}"
    if unlabelled := [sample.key for sample in samples if sample.name is None]:
        lacking = f"{len(unlabelled):,} of {len(samples):,} images{of} have no text in a .txt"
        return None, None, f"{lacking}, the first is {unlabelled[0]}"
    texts = [sample.name for sample in (*samples, *pooled) if sample.name is not None]
    classes, captions = classes_of(texts)
    if captions:
        return None, None, f"the .txt members are captions, not classes: {captions}"
    return number_names(texts[: len(samples)], classes), classes, ""


def _together(samples: Sequence[tuple[int, Sample]]) -> tuple[str, ...]:
    """Returns a note if images would be one sample in WebDataset, where a key ends at the first dot."""
    keys = Counter((shard, webdataset_key(sample.key)) for shard, sample in samples)
    shared = [sample.key for shard, sample in samples if keys[shard, webdataset_key(sample.key)] > 1]
    if not shared:
        return ()
    images = f"{len(shared):,} images share their name up to its first dot, e.g. {shared[0]} and {shared[1]}"
    return (f"{images}: each counts as an image",)


def expand_braces(pattern: str) -> list[str]:
    """Returns the names that `shard-{0000..0003}.tar` or `{train,extra}.tar` expands to; leading zeros are kept."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if bounds:
        first, last = bounds.groups()
        inner = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        inner = match[1].split(",")
    tails = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + middle + tail for middle in inner for tail in tails]
