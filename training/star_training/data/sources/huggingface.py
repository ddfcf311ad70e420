"""Hugging Face `datasets`: data sets of the Hub (or its cache) by name, and folders written by `save_to_disk`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from star_catalog.zoo import check_reachable

from ..contents import fingerprint, of_files
from ..decode import UndecodableImage
from ..split_names import choose_split, of_split
from .base import DataError, Inventory
from .columns import LABELS, check_given, choose
from .raw import as_targets, inside, number_names, whole_floats

SAVED_FILES = ("dataset_dict.json", "dataset_info.json")  # one of them is in every folder of `save_to_disk`


@dataclass(frozen=True)
class HuggingFaceImages:
    """One split of a Hugging Face data set; see `open_hub`."""

    where: str
    folders: tuple[Path, ...]  # below which a row may name a file
    dataset: Any
    column: str
    fingerprint: str
    classes: tuple[str, ...] | None
    targets: Tensor | None
    inventory: Inventory

    def __len__(self) -> int:
        return len(self.dataset)

    def encoded(self, index: int) -> bytes | Path:
        image = self.dataset[index][self.column] or {}
        data, path = image.get("bytes"), image.get("path")
        if data or not path:
            return data or b""
        found = inside(path, *self.folders)
        if found is None:
            raise UndecodableImage(f"{path!r} is no file below {self.folders[0]}")
        return found

    def describe(self, index: int) -> str:
        return f"row {index} of {self.where}"


def open_hub(spec: str, split: str, given: Mapping[str, str]) -> HuggingFaceImages:
    """Opens a split of `NAME` or `NAME:CONFIG`, downloaded unless cached. Raises DataError.

    The images are the first column of type Image. The labels are the column with the first name in `columns.LABELS`,
    or else the first ClassLabel column, if any. Columns `given` by role ("image", "label") replace these.
    """
    name, _, config = spec.partition(":")
    datasets = import_datasets(spec)
    try:
        if not _is_cached(name):
            check_reachable()
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the library's own errors share no base
        raise DataError(
            f"can't load {spec!r} with Hugging Face datasets ({type(error).__name__}: {error}). Check the name and the "
            "connection; or download its Parquet files and give their folder."
        ) from error
    return _split_of(loaded, split, spec, local_folders(name), given)


def _is_cached(name: str) -> bool:
    """Returns whether a data set was loaded before, so that the library finds it without the Hub; or is a folder."""
    from datasets import config

    return os.path.isdir(name) or (Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir()


def local_folders(name: str) -> tuple[Path, ...]:
    """Returns the folders of the files of a data set that was loaded by name: its own, and those of downloads."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    downloads = (HF_HUB_CACHE, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH)
    return (*([Path(name)] if os.path.isdir(name) else []), *map(Path, downloads))


def open_saved(folder: Path, split: str, given: Mapping[str, str]) -> HuggingFaceImages:
    """Opens a split of a folder written by `save_to_disk`; a single data set in it is "train". Raises DataError."""
    datasets = import_datasets(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"can't load {folder}, which save_to_disk seems to have written: {error}") from error
    return _split_of(loaded, split, str(folder), (folder,), given)


def import_datasets(wanted: str) -> ModuleType:
    """Returns Hugging Face's library. Raises DataError with the name of the `wanted` data if it isn't installed."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"reading {wanted} needs Hugging Face datasets: pip install datasets.") from error
    return datasets


def _split_of(
    loaded: Any, split: str, where: str, folders: tuple[Path, ...], given: Mapping[str, str]
) -> HuggingFaceImages:
    import datasets

    splits = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    chosen = choose_split(split, splits, where)
    dataset = splits[chosen]
    check_given(given, list(dataset.features), where)
    if "split" in given:
        raise DataError(f"{where} has splits of its own: leave out split={given['split']}.")
    pictures = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if not pictures:
        raise DataError(f"{where} has no column of type Image, only {dict(dataset.features)}.")
    column, *more = [given["image"]] if "image" in given else pictures
    if column not in pictures:
        raise DataError(f"column {column!r} of {where} is not of type Image, as {' and '.join(pictures)} is.")
    targets, classes, why, note = _labels(splits, chosen, given.get("label"), where)
    notes = [f"column {column} holds the images, not {' or '.join(more)}" if more else "", note, whole_floats(targets)]
    images = dataset.select_columns(column).cast_column(column, datasets.Image(decode=False))
    return HuggingFaceImages(
        where=where,
        folders=folders,
        dataset=images,
        column=column,
        fingerprint=fingerprint(chosen, column, *_contents(images, column, folders), classes=classes, targets=targets),
        classes=classes,
        targets=targets,
        inventory=Inventory(
            {name: len(part) for name, part in splits.items()}, tuple(filter(None, notes)), unlabelled=why
        ),
    )


def _contents(images: Any, column: str, folders: Sequence[Path]) -> Iterator[object]:
    """Yields the parts of the images' fingerprint: the contents of their files, and the rows in memory."""
    stored, paths = images.data.column(column).flatten()
    bare = paths.filter(stored.is_null()).drop_null().to_pylist()
    tables = [file["filename"] for file in images.cache_files]
    allowed = [found for path in bare if (found := inside(path, *folders))]
    yield of_files([*map(Path, tables), *allowed])
    if not tables:
        yield from (row.as_py() or b"" for row in stored)


def _labels(
    splits: Mapping[str, Any], split: str, given: str | None, where: str
) -> tuple[Tensor | None, tuple[str, ...] | None, str, str]:
    """Returns (targets, classes, reason for no labels, note) of a split; text classes are numbered over all splits."""
    import datasets

    features = splits[split].features
    column, note = (given, "") if given else choose(LABELS, list(features))
    if column is None:
        column = next((name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)), None)
        if column is None:
            return None, None, "there is no column 'label'", ""
        note = f"column {column} is taken for label"
    values = splits[split].select_columns(column)[:][column]
    if isinstance(features[column], datasets.ClassLabel):
        targets, why = as_targets(values, where, of_split(split, splits))
        return targets, tuple(features[column].names), why, note
    if all(isinstance(value, str) for value in values):
        names = tuple(sorted({str(name) for part in splits.values() for name in part.unique(column)}))
        return number_names(values, names), names, "", note
    targets, why = as_targets(values, where, of_split(split, splits))
    return targets, None, why, note
