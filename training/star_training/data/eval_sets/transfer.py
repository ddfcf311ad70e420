"""The data sets that AugSelf and STAR transfer to, with their conventions: validation images and kind of accuracy.

Sources: counts, seeds and file lists are those of AugSelf's released protocol (arXiv 2111.09613); those of cars and
aircraft are STAR's. Averaging over classes on some data sets is customary since Kornblith et al. (CVPR 2019).

Tested on small synthetic files in the real layouts, never on the official files. Two problems could remain with these.
The order of files may differ: AugSelf read flowers, and STAR read cars and aircraft, from folders of images. Flowers
and aircraft are read through torchvision here; their validation images are official, so their order doesn't matter.
An image may not decode, and the data set then counts as incomplete.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...settings.common import MAX_BAD
from ..intact import intact
from ..lazy import StreamedSource
from ..sources.base import DataError, NoSuchSplit, Source
from ..sources.folder import FolderImages, open_folder
from ..sources.open import open_undecoded
from ..sources.raw import number_names
from ..sources.subset import Part

_LISTS = "github.com/hankook/AugSelf, folder splits"


class HeldOut(NamedTuple):
    """Validation images drawn from the training images: the numbers of both, scaled if the total differs."""

    train: int
    val: int
    seed: int

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns the remaining and the held-out indices of `count` images, as `torch.utils.data.random_split`."""
        total = self.train + self.val
        held = self.val if count == total else max(1, round(count * self.val / total))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return order[: count - held], order[count - held :]


class Conventions(NamedTuple):
    """The conventions for evaluating a data set."""

    held_out: HeldOut | None = None  # None if it has validation images or no convention
    per_class: bool = False  # average accuracy over classes instead of images


class TransferSet(NamedTuple):
    """A data set of the table: `open(root, split, max_bad)` returns the images of "train", "val" or "test"."""

    open: Callable[[str, str, float], Source]
    conventions: Conventions = Conventions()


def conventions(name: str) -> Conventions:
    """Returns the conventions of a data set by its name; the defaults for a name that is not in the table."""
    return SETS[name].conventions if name in SETS else _PACKS.get(name, Conventions())


def open_set(name: str, root: str, split: str, max_bad: float = MAX_BAD) -> Source:
    """Opens a split of a data set of the table; `root` is as in torchvision. Raises DataError, NoSuchSplit.

    If validation images are drawn from the training images, "train" holds both. Their number must be the paper's,
    because otherwise other validation images would be drawn.
    """
    of_set = SETS[name]
    rule = of_set.conventions.held_out
    source = intact(of_set.open(root, split, max_bad))
    if rule is not None and split == "train" and len(source) != rule.train + rule.val:
        raise DataError(
            f"{name} under {root} has {len(source)} training images, but the paper's split is of "
            f"{rule.train + rule.val}: {rule.train} and {rule.val} to validate. Complete it, or pass it as a folder of "
            "images, a Parquet file or torchvision:NAME, which are split in the same proportion."
        )
    return source


def _torchvision(name: str, **splits: str) -> Callable[[str, str, float], Source]:
    """Opens a torchvision class; `splits` maps our names of splits to the class's where they differ."""
    return lambda root, split, max_bad: open_undecoded(
        f"torchvision:{name}@{root}", splits.get(split, split), max_bad=max_bad
    )


def _folder(name: str, **splits: str) -> Callable[[str, str, float], Source]:
    """Opens a folder of images with sub-folders for splits and classes: ROOT/NAME, or else ROOT itself."""
    return lambda root, split, max_bad: open_undecoded(
        str(_inside(root, name)), splits.get(split, split), max_bad=max_bad
    )


def _inside(root: str, name: str) -> Path:
    return Path(root, name) if Path(root, name).is_dir() else Path(root)


def _food101(root: str, split: str, max_bad: float) -> Source:
    """Sorts by class, because AugSelf follows classes.txt, which is sorted, and torchvision follows train.json."""
    source = open_undecoded(f"torchvision:Food101@{root}", split, max_bad=max_bad)
    assert source.targets is not None
    return Part(source, source.targets.argsort(stable=True))


def _caltech101(root: str, split: str, max_bad: float) -> Source:
    """Splits by AugSelf's file lists, which number the images class by class as torchvision, without background."""
    raw = open_folder(_inside(root, "caltech101") / "101_ObjectCategories", "train")
    classes = tuple(name for name in raw.classes or () if name != "BACKGROUND_Google")
    return _listed(_streamed("caltech101", root, _of_classes(raw, classes), max_bad), _lists(root, "caltech101"), split)


def _sun397(root: str, split: str, max_bad: float) -> Source:
    """Opens the first official partition, Training_01.txt and Testing_01.txt; AugSelf's lists divide the former.

    The images are in ROOT/SUN397 or in ROOT; ClassName.txt and the partitions are in either folder.
    """
    folder = _inside(root, "SUN397")
    classes = _lines(root, folder, "ClassName.txt")
    partition = "Testing_01.txt" if split == "test" else "Training_01.txt"
    files = [name.lstrip("/") for name in _lines(root, folder, partition)]
    names = tuple(name.lstrip("/") for name in classes)
    try:
        targets = number_names((file.rpartition("/")[0] for file in files), names)
    except KeyError as error:
        raise DataError(f"{partition} of {root} has images of {error}, which ClassName.txt lacks.") from error
    raw = FolderImages(folder, tuple(files), names, targets)
    whole = _streamed("sun397", root, raw, max_bad)
    return whole if split == "test" else _listed(whole, _lists(root, "sun397"), split)


def _lines(root: str, folder: Path, name: str) -> list[str]:
    for path in (Path(root, name), folder / name):
        if path.is_file():
            return path.read_text(encoding="utf-8").split()
    raise DataError(f"sun397 needs {name} in {root}; it comes with the official partitions (Partitions.zip).")


def _imagenet100(root: str, split: str, max_bad: float) -> Source:
    """Opens folders train and val of 100 classes, or of more if imagenet100.txt lists those to use, one per line."""
    folder = _inside(root, "imagenet100")
    raw, kept = open_folder(folder, "val" if split == "test" else split), folder / "imagenet100.txt"
    names = raw.classes or ()
    if not kept.is_file() and len(names) != 100:
        raise DataError(f"{folder} has {len(names)} classes; to select some, add imagenet100.txt from {_LISTS}.")
    classes = tuple(kept.read_text(encoding="utf-8").split()) if kept.is_file() else names
    if missing := sorted(set(classes) - set(names)):
        raise DataError(f"{folder} lacks {len(missing)} of the classes of imagenet100.txt, e.g. {missing[0]}.")
    return _streamed("imagenet100", root, _of_classes(raw, classes), max_bad)


def _of_classes(raw: FolderImages, classes: tuple[str, ...]) -> FolderImages:
    """Returns the images of the given classes, labelled by the classes' order."""
    wanted = set(classes)
    files = tuple(file for file in raw.files if file.split("/", 1)[0] in wanted)
    targets = number_names((file.split("/", 1)[0] for file in files), classes)
    return FolderImages(raw.root, files, classes, targets)


def _streamed(name: str, root: str, raw: FolderImages, max_bad: float) -> Source:
    return StreamedSource(f"{name}@{root}", raw, max_bad)


def _lists(root: str, name: str) -> dict[str, list[int]]:
    """Returns indices by split from AugSelf's NAME.pth or NAME_split.json; the latter may map indices to splits."""
    released, ours = Path(root, f"{name}.pth"), Path(root, f"{name}_split.json")
    if ours.is_file():
        lists = json.loads(ours.read_text(encoding="utf-8"))
        if all(isinstance(value, list) for value in lists.values()):
            return lists
        return {split: [int(i) for i, own in lists.items() if own == split] for split in ("train", "val", "test")}
    if released.is_file():
        lists = torch.load(released, weights_only=True)
        return {split: [int(i) for i in part] for split, part in zip(("train", "val", "test"), lists, strict=False)}
    raise DataError(f"{name} is split by a list of files: put {released.name} of {_LISTS}, into {root}.")


def _listed(whole: Source, lists: dict[str, list[int]], split: str) -> Source:
    if split not in lists:
        raise NoSuchSplit(f"the list of files of {whole.name} has no split {split!r}, only {', '.join(lists)}.")
    if (last := max(index for part in lists.values() for index in part)) >= len(whole):
        raise DataError(f"{whole.name} has {len(whole)} images, but its list of files has {last + 1}: complete it.")
    return Part(whole, torch.tensor(lists[split]))


_PER_CLASS = Conventions(per_class=True)
_PACKS = {"flowers17": _PER_CLASS}  # parts of data sets of the table, by their own names

SETS: dict[str, TransferSet] = {
    "cifar10": TransferSet(_torchvision("CIFAR10"), Conventions(HeldOut(45_000, 5_000, 43))),
    "cifar100": TransferSet(_torchvision("CIFAR100"), Conventions(HeldOut(45_000, 5_000, 44))),
    "food101": TransferSet(_food101, Conventions(HeldOut(68_175, 7_575, 42))),
    "mit67": TransferSet(_folder("mit67"), Conventions(HeldOut(4_690, 670, 51))),
    "pets": TransferSet(
        _torchvision("OxfordIIITPet", train="trainval"), Conventions(HeldOut(2_940, 740, 49), per_class=True)
    ),
    "flowers": TransferSet(_torchvision("Flowers102"), _PER_CLASS),
    "caltech101": TransferSet(_caltech101, _PER_CLASS),
    "cars": TransferSet(_folder("cars"), Conventions(HeldOut(6_494, 1_650, 45))),
    "aircraft": TransferSet(_torchvision("FGVCAircraft"), _PER_CLASS),
    "dtd": TransferSet(_torchvision("DTD")),
    "sun397": TransferSet(_sun397),
    "stl10": TransferSet(_torchvision("STL10", train="labeled"), Conventions(HeldOut(4_500, 500, 50))),
    "imagenet100": TransferSet(_imagenet100, Conventions(HeldOut(114_020, 12_669, 12))),
}
