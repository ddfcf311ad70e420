"""Titles, Hub ids and terms of the data sets that recipes name; cards must state them."""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from star_catalog.columns import split_columns


class DataSet(NamedTuple):
    """A data set; `terms` is a full sentence. The title of one that isn't known is the name of its folder or file."""

    title: str
    hub_id: str | None
    terms: str
    known: bool = True


_RESEARCH = "Its terms allow non-commercial research and education only (image-net.org)."
_KNOWN = {
    "cifar10": DataSet("CIFAR-10", "uoft-cs/cifar10", "Its authors state no licence (Krizhevsky, 2009)."),
    "cifar100": DataSet("CIFAR-100", "uoft-cs/cifar100", "Its authors state no licence (Krizhevsky, 2009)."),
    "stl10": DataSet("STL-10", None, "Drawn from ImageNet by its authors (Coates et al., 2011), who state no licence."),
    "tin100": DataSet("100 classes of Tiny ImageNet, and CIFAR-100", None, _RESEARCH),
    "tinyimagenet": DataSet("Tiny ImageNet", "zh-plus/tiny-imagenet", _RESEARCH),
    "imagenet100": DataSet("ImageNet-100", None, _RESEARCH),
    "imagenet": DataSet("ImageNet", "ILSVRC/imagenet-1k", _RESEARCH),
    "spirograph": DataSet("Spirographs", None, "Computed by star-zoo itself; no terms."),
}


# may follow the name of a known data set; all else, as in "imagenet_sketch" or "cifar10-c", is another data set
_SUFFIX = re.compile(
    r"1k|\d{2,}|ilsvrc\d*|train|training|val|valid|validation|test|unlabeled|binary|full|python|batches|py|tar|parquet"
)


def of(source: str) -> DataSet:
    """Returns the data set that a recipe's `data.source` names; for an unknown one, only its name is known."""
    with contextlib.suppress(ValueError):  # a recipe.json may hold any text
        source, _ = split_columns(source)
    name = _name(source)
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    for known in sorted(_KNOWN, key=len, reverse=True):  # cifar100 before cifar10
        if any(_is_followed("".join(words[:count]), words[count:], known) for count in range(1, len(words) + 1)):
            return _KNOWN[known]
    terms = "Their terms are not known to star-zoo; whoever publishes this model must state them."
    return DataSet(name or source, None, terms, known=False)  # "." has no name


def _name(source: str) -> str:
    """Returns the name in a source: NAME of torchvision:NAME@ROOT, hf:OWNER/NAME:CONFIG and path/to/NAME."""
    if source.startswith("spirograph:"):
        return "spirograph"
    place = source.removeprefix("stream:").removeprefix("torchvision:")
    if place.startswith("hf:"):
        place = place.removeprefix("hf:").partition(":")[0]
    return Path(place.partition("@")[0]).name


def _is_followed(begin: str, words: list[str], known: str) -> bool:
    """Whether `begin` is a known name, with or without a suffix, and every further word is a suffix."""
    rest = begin.removeprefix(known) if begin.startswith(known) else None
    return rest is not None and all(_SUFFIX.fullmatch(word) for word in (*([rest] if rest else []), *words))
