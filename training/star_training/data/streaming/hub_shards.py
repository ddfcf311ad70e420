"""Hugging Face data sets as shards with sequential access, read over the network without a prior download."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_catalog.zoo import check_reachable

from ..decode import MOST_ENCODED
from ..sources.base import DataError
from ..sources.huggingface import import_datasets, local_folders
from ..sources.raw import digest, inside
from ..split_names import choose_split
from .shards import Encoded, persistent

_ROWS = 16  # rows per read of the library
_REMOTE = ("hf://", "http://", "https://")


@dataclass(frozen=True)
class HubShards:
    """The shards of a split as `datasets` divides it, mostly one per file; see `open_hub_shards`."""

    where: str
    split: str
    dataset: Any  # an IterableDataset
    column: str
    folders: tuple[Path, ...]  # below which a row may name a file of this machine

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the name, the split and the number of shards; their contents aren't read."""
        return digest(["hub stream", self.where, self.split, len(self)])

    def __len__(self) -> int:
        return self.dataset.num_shards

    def read(self, shard: int) -> Iterator[Encoded]:
        """Yields the images in the order of the rows; resumes after an interruption by reading the shard again."""
        return persistent(lambda: self._images(shard), f"shard {shard} of {self.where}")

    def _images(self, shard: int) -> Iterator[Encoded]:
        part, row = self.dataset.shard(num_shards=len(self), index=shard), 0
        # not iter(part), because in a worker it skips the rows that it assigns to the other workers
        for rows in part.iter(batch_size=_ROWS):
            for image in rows[self.column]:
                yield Encoded(f"row {row} of shard {shard} of {self.where}", _bytes(image or {}, self.folders))
                row += 1


def open_hub_shards(spec: str) -> HubShards:
    """Opens the training split of `NAME` or `NAME:CONFIG`, which is read over the network. Raises DataError.

    The images are the first column of type Image.
    """
    name, _, config = spec.partition(":")
    datasets = import_datasets(spec)
    try:
        if not os.path.isdir(name):
            check_reachable()
        loaded = datasets.load_dataset(name, config or None, streaming=True)
    except Exception as error:  # the library's own errors share no base
        raise DataError(
            f"can't stream {spec!r} with Hugging Face datasets ({type(error).__name__}: {error}). Check the name and "
            "the connection."
        ) from error
    split = choose_split("train", loaded, spec)
    features = loaded[split].features or {}
    column = next((name for name, feature in features.items() if isinstance(feature, datasets.Image)), None)
    if column is None:
        raise DataError(f"{spec} has no column of type Image, only {dict(features)}.")
    images = loaded[split].select_columns(column).cast_column(column, datasets.Image(decode=False))
    return HubShards(spec, split, images, column, local_folders(name))


def _bytes(image: dict[str, Any], folders: Sequence[Path]) -> bytes:
    """Returns the bytes of an image, read from its path if the row has no bytes. Raises OSError.

    Returns no bytes for a local file outside of the folders, because a row may name any file, and for a file that is
    larger than images are.
    """
    path = image.get("path")
    if image.get("bytes") or not path:
        return image.get("bytes") or b""
    place = path.rpartition("::")[2]  # of the archive that a path leads into, e.g. zip://0.png::https://host/a.zip
    if not place.startswith(_REMOTE) and inside(place, *folders) is None:
        return b""
    import fsspec

    with fsspec.open(path, "rb") as file:
        data: bytes = file.read(MOST_ENCODED + 1)
    return data if len(data) <= MOST_ENCODED else b""
