"""The data sets that AugSelf and STAR transfer to, and their conventions: which images validate, what accuracy means.

Sources: counts, seeds and file lists are those of AugSelf's released protocol (arXiv 2111.09613), those of cars and
aircraft STAR's; the mean over classes for some sets is the custom since Kornblith et al. (CVPR 2019).

Tested on small made-up files in the real layouts, never on the official ones. What the real ones could still show:
that an order of files differs (AugSelf had flowers, and STAR had cars and aircraft, as folders of images; ours is
torchvision's for flowers and aircraft, whose validation images are official, so that no order matters), or that an
image of a set doesn't decode and the set then counts as incomplete.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..intact import intact
from ..lazy import StreamedSource
from ..sources.base import DataError, NoSuchSplit, Source
from ..sources.folder import FolderImages, open_folder
from ..sources.open import open_source
from ..sources.raw import number_names
from ..sources.subset import Part

_LISTS = "github.com/hankook/AugSelf, folder splits"


class HeldOut(NamedTuple):
    """Validation images drawn from the training images: so many of each, or of other totals in proportion."""

    train: int
    val: int
    seed: int

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Indices of the rest and of those held out among `count` images, as `torch.utils.data.random_split`'s."""
        total = self.train + self.val
        held = self.val if count == total else max(1, round(count * self.val / total))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return order[: count - held], order[count - held :]


class Conventions(NamedTuple):
    """How a data set is evaluated."""

    held_out: HeldOut | None = None  # None where it has validation images, or no convention
    per_class: bool = False  # the mean over classes instead of over images


class TransferSet(NamedTuple):
    """A data set of the table: `open(root, split)` gives the images of "train", "val" or "test"."""

    open: Callable[[str, str], Source]
    conventions: Conventions = Conventions()


def conventions(name: str) -> Conventions:
    """Those of a data set by its name; none for one that is not in the table."""
    return SETS[name].conventions if name in SETS else _PACKS.get(name, Conventions())


def open_set(name: str, root: str, split: str) -> Source:
    """A split of a set of the table from the folder that torchvision calls its root. Raises DataError, NoSuchSplit.

    Where validation images are drawn from the training images, "train" has them all; their number must be the paper's,
    because with another the drawn images would be others too.
    """
    of_set = SETS[name]
    rule = of_set.conventions.held_out
    source = intact(of_set.open(root, split))
    if rule is not None and split == "train" and len(source) != rule.train + rule.val:
        raise DataError(
            f"{name} under {root} has {len(source)} training images, but the paper's split is of "
            f"{rule.train + rule.val}: {rule.train} and {rule.val} to validate. Complete it, or for a split in "
            "proportion give it as a folder of images, a Parquet file or torchvision:NAME."
        )
    return source


def _torchvision(name: str, **splits: str) -> Callable[[str, str], Source]:
    """A class of torchvision; `splits` are the names it has for ours where they differ."""
    return lambda root, split: open_source(f"torchvision:{name}@{root}", splits.get(split, split))


def _folder(name: str, **splits: str) -> Callable[[str, str], Source]:
    """A folder of images with sub-folders for splits and classes: the root itself, or its folder of that name."""
    return lambda root, split: open_source(str(_inside(root, name)), splits.get(split, split))


def _inside(root: str, name: str) -> Path:
    return Path(root, name) if Path(root, name).is_dir() else Path(root)


def _food101(root: str, split: str) -> Source:
    """By class: torchvision goes by train.json's order of classes, AugSelf by classes.txt's, which is sorted."""
    source = open_source(f"torchvision:Food101@{root}", split)
    assert source.targets is not None
    return Part(source, source.targets.argsort(stable=True))


def _caltech101(root: str, split: str) -> Source:
    """AugSelf's file lists. They number the images class by class, as torchvision does, without the background."""
    raw = open_folder(_inside(root, "caltech101") / "101_ObjectCategories", "train")
    classes = tuple(name for name in raw.classes or () if name != "BACKGROUND_Google")
    return _listed(_streamed("caltech101", root, _of_classes(raw, classes)), _lists(root, "caltech101"), split)


def _sun397(root: str, split: str) -> Source:
    """The first of the official partitions, Training_01.txt and Testing_01.txt; AugSelf's lists divide the former.

    The images are in ROOT/SUN397, or all in ROOT; ClassName.txt and the partitions are in either.
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
    whole = _streamed("sun397", root, raw)
    return whole if split == "test" else _listed(whole, _lists(root, "sun397"), split)


def _lines(root: str, folder: Path, name: str) -> list[str]:
    for path in (Path(root, name), folder / name):
        if path.is_file():
            return path.read_text(encoding="utf-8").split()
    raise DataError(f"sun397 needs {name} in {root}; it comes with the official partitions (Partitions.zip).")


def _imagenet100(root: str, split: str) -> Source:
    """Folders train and val of 100 classes, or of more with those to keep in imagenet100.txt, one a line."""
    folder = _inside(root, "imagenet100")
    raw, kept = open_folder(folder, "val" if split == "test" else split), folder / "imagenet100.txt"
    names = raw.classes or ()
    if not kept.is_file() and len(names) != 100:
        raise DataError(f"{folder} has {len(names)} classes; put imagenet100.txt of {_LISTS}, there to say which.")
    classes = tuple(kept.read_text(encoding="utf-8").split()) if kept.is_file() else names
    if missing := sorted(set(classes) - set(names)):
        raise DataError(f"{folder} lacks {len(missing)} of the classes of imagenet100.txt, such as {missing[0]}.")
    return _streamed("imagenet100", root, _of_classes(raw, classes))


def _of_classes(raw: FolderImages, classes: tuple[str, ...]) -> FolderImages:
    """The images of these classes alone, labelled by their order."""
    wanted = set(classes)
    files = tuple(file for file in raw.files if file.split("/", 1)[0] in wanted)
    targets = number_names((file.split("/", 1)[0] for file in files), classes)
    return FolderImages(raw.root, files, classes, targets)


def _streamed(name: str, root: str, raw: FolderImages) -> Source:
    return StreamedSource(f"{name}@{root}", raw, max_bad=0.01)


def _lists(root: str, name: str) -> dict[str, list[int]]:
    """Indices by split: NAME.pth as AugSelf has it, or NAME_split.json with them or with the split of each index."""
    released, ours = Path(root, f"{name}.pth"), Path(root, f"{name}_split.json")
    if ours.is_file():
        found = json.loads(ours.read_text(encoding="utf-8"))
        if all(isinstance(value, list) for value in found.values()):
            return found
        return {split: [int(i) for i, of in found.items() if of == split] for split in ("train", "val", "test")}
    if released.is_file():
        lists = torch.load(released, weights_only=True)
        return {split: [int(i) for i in part] for split, part in zip(("train", "val", "test"), lists, strict=False)}
    raise DataError(f"{name} is divided by a list of files: put {released.name} of {_LISTS}, into {root}.")


def _listed(whole: Source, lists: dict[str, list[int]], split: str) -> Source:
    if split not in lists:
        raise NoSuchSplit(f"the list of files of {whole.name} has no split {split!r}, only {', '.join(lists)}.")
    if (last := max(index for part in lists.values() for index in part)) >= len(whole):
        raise DataError(f"{whole.name} has {len(whole)} images, but its list of files goes to {last + 1}: complete it.")
    return Part(whole, torch.tensor(lists[split]))


_PER_CLASS = Conventions(per_class=True)
_PACKS = {"flowers17": _PER_CLASS}  # parts of sets of the table that have names of their own

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
