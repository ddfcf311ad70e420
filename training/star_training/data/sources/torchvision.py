"""The data sets of torchvision, by class name: `torchvision:CIFAR10`, `torchvision:STL10@/data/stl10`."""

import difflib
import functools
import hashlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from star_catalog.writing import writing

from ..contents import fingerprint, of_files
from ..decode import UndecodableImage
from ..split_names import choose_split, split_names
from ..threads import in_threads
from .base import DataError, Inventory, NoSuchSplit
from .raw import as_targets, digest, load, whole_floats

DEFAULT_ROOT = "~/.cache/star_zoo/torchvision"

# Classes with unusual names for splits. For STL10, "train" includes the unlabelled images, for pretraining.
_OWN_SPLITS = {
    "STL10": {"train": "train+unlabeled", "labeled": "train"},
    "Places365": {"train": "train-standard"},
}
_BLOCK = 32  # images decoded per task
_LABELS = ("targets", "labels", "_labels", "y", "_samples")  # attributes that hold all labels, without decoding


@dataclass(frozen=True)
class TorchvisionImages:
    """One split of a torchvision data set; see `open_torchvision`."""

    name: str
    own_split: str
    dataset: Any
    classes: tuple[str, ...] | None
    targets: Tensor | None
    inventory: Inventory

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the files that the data set lists, one per image; else that of the decoded images."""
        if files := _files(self.dataset):
            contents = of_files(files)
        else:
            contents = digest(chain.from_iterable(in_threads(self._digests, len(self), _BLOCK)))
        parts = self.name, self.own_split, len(self), contents
        return fingerprint(*parts, classes=self.classes, targets=self.targets)

    def _digests(self, indices: range) -> list[bytes]:
        """Returns each decoded image's digest, an empty one for an image that doesn't decode."""
        digests = []
        for index in indices:
            try:
                image = load(self, index).permute(1, 2, 0).numpy()
                digests.append(hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest())
            except UndecodableImage:
                digests.append(b"")
        return digests

    def __len__(self) -> int:
        return len(self.dataset)

    def encoded(self, index: int) -> Image.Image:
        image = self.dataset[index][0]
        if not isinstance(image, Image.Image):
            raise TypeError(f"{self.name} holds {type(image).__name__}s, not images")
        return image

    def describe(self, index: int) -> str:
        return f"image {index} of torchvision's {self.name}"


def open_torchvision(spec: str, split: str) -> TorchvisionImages:
    """Opens a split of `NAME` or `NAME@ROOT`, downloaded to the root if it is missing there. Raises DataError.

    The split is passed as the class's `train`, `split` or `image_set`; a class without any of them has only "train".
    STL10's "train" is `train+unlabeled`; its labelled images alone are "labeled".
    """
    name, _, root = spec.partition("@")
    maker = _maker(name)
    dataset, own_split = _make(maker, Path(os.path.expanduser(root or DEFAULT_ROOT)).absolute(), split)
    targets, why = _targets(dataset, name)
    return TorchvisionImages(
        name=name,
        own_split=own_split,
        dataset=dataset,
        classes=_classes(dataset, targets),
        targets=targets,
        inventory=Inventory({own_split: len(dataset)}, tuple(filter(None, [whole_floats(targets)])), unlabelled=why),
    )


def _maker(name: str) -> type:
    from torchvision import datasets

    maker = getattr(datasets, name, None)
    if name in datasets.__all__ and isinstance(maker, type):
        return maker
    by_lower = {known.lower(): known for known in datasets.__all__}
    close = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(datasets.__all__))}."
    raise DataError(f"torchvision has no data set {name!r}: {hint}")


def _make(maker: type, root: Path, split: str) -> tuple[Any, str]:
    """Returns the data set and the class's own name for the split."""
    unknown = None
    for own, arguments in _choices(maker, split).items():
        try:
            return _load(maker, root, **arguments), own
        except DataError:
            raise
        except ValueError as error:
            unknown = error
    raise NoSuchSplit(f"can't open the split {split!r} of torchvision's {maker.__name__}: {unknown}") from unknown


def _choices(maker: type, split: str) -> dict[str, dict[str, Any]]:
    """Returns the class's possible names for the split, best first, each with the arguments that select it."""
    name, parameters = maker.__name__, _parameters(maker)
    if "train" in parameters:
        own = choose_split(split, ["train", "test"], name)
        return {own: {"train": own == "train"}}
    keyword = next((word for word in ("split", "image_set") if word in parameters), None)
    if keyword is None:
        return {choose_split(split, ["train"], name): {}}
    own_names = _OWN_SPLITS.get(name, {})
    names = (own_names[split],) if split in own_names else split_names(split)
    return {own: {keyword: own} for own in names}


def _parameters(maker: type) -> set[str]:
    """Returns the names of its constructor's arguments, including those of bases to which it passes `**kwargs`."""
    names: set[str] = set()
    for cls in maker.__mro__:
        parameters = inspect.signature(cls).parameters
        names.update(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _load(maker: type, root: Path, **arguments: Any) -> Any:
    """Returns the data set, downloaded if its files aren't under `root`. Raises ValueError for an unknown split."""
    parameters = _parameters(maker)
    if "root" in parameters:
        arguments["root"] = str(root)
    try:
        return maker(**arguments)
    except ValueError:
        raise
    except Exception as error:  # each class complains of missing files in its own way
        if "download" not in parameters:
            raise DataError(f"can't open torchvision's {maker.__name__} under {root}: {error}") from error
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    try:
        return maker(download=True, **arguments)
    except Exception as error:
        raise DataError(
            f"{maker.__name__} isn't under {root} and can't be downloaded ({type(error).__name__}: {error}). "
            f"Put its files there or name their folder, torchvision:{maker.__name__}@FOLDER; "
            "or use a folder of images or a Parquet file."
        ) from error


def _files(dataset: Any) -> list[Path]:
    """Returns the files named in the data set's lists of samples; [] if no list names a file for each sample."""
    files: dict[Path, None] = {}  # in order, without duplicates: some data sets keep a list under two names
    for listed in vars(dataset).values():
        if isinstance(listed, list | tuple) and len(listed) == len(dataset):
            named = [list(_paths(sample)) for sample in listed]
            if all(named):
                files |= dict.fromkeys(chain.from_iterable(named))
    return list(files)


def _paths(sample: Any) -> Iterator[Path]:
    for part in sample if isinstance(sample, list | tuple) else (sample,):
        if isinstance(part, str | os.PathLike) and os.path.isabs(part):
            yield Path(part)


def _targets(dataset: Any, name: str) -> tuple[Tensor | None, str]:
    for attribute in _LABELS:
        labels: Any = getattr(dataset, attribute, ())
        if isinstance(labels, list | tuple) and labels and isinstance(labels[0], tuple):
            labels = [sample[-1] for sample in labels]  # (path, label)
        if hasattr(labels, "__len__") and len(labels) == len(dataset):
            return as_targets(labels, f"torchvision's {name}")
    return None, "torchvision's class has no list of labels"


def _classes(dataset: Any, targets: Tensor | None) -> tuple[str, ...] | None:
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if targets is None or targets.is_floating_point() or not isinstance(names, list | tuple):
        return None
    return tuple(name if isinstance(name, str) else str(name[0]) for name in names)  # ImageNet has tuples of synonyms
