"""Opens the `Source` that a user's specification names."""

import contextlib
import functools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from star_catalog.columns import split_columns

from ...settings.common import MAX_BAD
from ..cached import CachedSource, TooLarge, fits
from ..decode import UndecodableImage, decoded_size, undecodable
from ..lazy import StreamedSource
from ..places import home, names_at_home, resolved
from ..split_names import files_by_split
from ..tried import decoded_bytes, note_decoded_bytes
from .base import DataError, Source
from .folder import open_folder
from .huggingface import SAVED_FILES, open_hub, open_saved
from .layout import named, suffix_of
from .parquet import ParquetImages, open_parquet
from .raw import Raw, Subset, evenly_spaced, in_channels
from .tar import TarImages, expand_braces, open_tar
from .torchvision import open_torchvision

KINDS = (
    "a folder of images, a .parquet file or a folder of them, .tar shards (a file, a folder of them, "
    "'shard-{0000..0003}.tar'), 'torchvision:NAME', 'hf:NAME' or 'spirograph'"
)
_Files = TypeVar("_Files", ParquetImages, TarImages)
_SAMPLE = 256  # images whose headers are read to estimate the memory of the whole data set


def open_source(
    spec: str,
    split: str = "train",
    *,
    max_bad: float = MAX_BAD,
    cache_bytes: int = 2 * 1024**3,
    limit: int | None = None,
    channels: int = 3,
) -> Source:
    """Opens one split of a data set; its images are decoded in advance if they fit in `cache_bytes`.

    Args:
        spec: a folder of images; a .parquet file or a folder of them; .tar shards (a file, a folder of them, or
            `shard-{0000..0003}.tar`); `torchvision:NAME[@ROOT]`; `hf:NAME[:CONFIG]`, or a folder that `save_to_disk`
            wrote; `spirograph[:N]`; a name in the folder of data sets (see `places`). Parquet files and Hugging Face
            data sets may be followed by columns: `FILE.parquet:image=COLUMN,label=COLUMN,split=COLUMN`.
        split: "train", "val" (also called "valid" or "validation") or "test", or a split's exact name.
        max_bad: fraction of the images that may fail to decode; they are left out (cached) or replaced (streamed).
        cache_bytes: a data set is decoded on access if its decoded images need more, first estimated from up to 256
            headers, or if they have more than a megapixel on average.
        limit: the largest number of images, chosen evenly spaced over the split before any is decoded.
        channels: of the decoded images; 3 is RGB and 1 grey, to which any image is converted, others must be the
            images' own.

    Raises `DataError` if the data can't be used; warns `BadImageWarning` about bad images.
    """
    source = open_undecoded(spec, split, max_bad=max_bad, cache_bytes=cache_bytes, limit=limit, channels=channels)
    if isinstance(source, CachedSource):
        source.decode()
    return source


def open_undecoded(
    spec: str,
    split: str = "train",
    *,
    max_bad: float = MAX_BAD,
    cache_bytes: int = 2 * 1024**3,
    limit: int | None = None,
    channels: int = 3,
) -> Source:
    """Opens one split as `open_source` does; its images are decoded by the first access to one.

    They are decoded here if it isn't known yet which of them decode.
    """
    if not 0 <= max_bad <= 1:
        raise DataError(f"max_bad = {max_bad:g} is not a fraction of the images: pass 0 to 1.")
    if limit is not None and limit < 1:
        raise DataError(f"limit = {limit} leaves no image: pass 1 or more, or None for all.")
    if channels < 1:
        raise DataError(f"images of {channels} channels don't exist: pass 1 or more.")
    if re.fullmatch(r"spirograph(:.*)?", spec):
        return _spirographs(spec, split, limit)
    reopen = functools.partial(_open_limited, spec, split, limit, channels)
    raw = reopen()
    expected = _expected_bytes(spec, raw)
    if fits(expected, len(raw), cache_bytes):
        with contextlib.suppress(TooLarge):
            return CachedSource(spec, raw, max_bad, expected, cache_bytes, reopen)
    return StreamedSource(spec, raw, max_bad)


def count_images(spec: str) -> int | None:
    """Returns the number of images in all splits of local files; None if it isn't known without reading them."""
    local = os.path.exists(split_columns(spec)[0])
    for split in ("train", "val", "test") if local else ():
        with contextlib.suppress(DataError):
            counts = list(_open_raw(spec, split).inventory.images.values())
            return None if None in counts else sum(count or 0 for count in counts)
    return None


def _spirographs(spec: str, split: str, limit: int | None) -> Source:
    from .spirograph import Spirographs

    if split not in ("train", "val", "test"):
        raise DataError(f"no split {split!r} of {spec!r}: pass 'train', 'val' or 'test'.")
    typed = spec.partition(":")[2]
    if typed and not re.fullmatch("0*[1-9][0-9]*", typed):
        raise DataError(f"{spec!r}: {typed!r} is not a number of images; pass one above 0, e.g. 'spirograph:1000'.")
    count = int(typed) if typed else 100_000 if split == "train" else 20_000  # as in Foster et al., ICLR 2021
    return Spirographs(count if limit is None else min(limit, count), split)


def _open_limited(spec: str, split: str, limit: int | None, channels: int) -> Raw:
    raw = in_channels(_open_raw(spec, split), channels)
    return raw if limit is None or limit >= len(raw) else Subset(raw, evenly_spaced(len(raw), limit))


def _open_raw(spec: str, split: str) -> Raw:
    spec, columns = split_columns(resolved(spec))
    kind, _, rest = spec.partition(":")
    if kind == "stream":
        raise DataError(f"{spec!r} has no random access, which is needed here; pass files on this machine.")
    if kind == "pipe" or rest.startswith("//"):
        raise DataError(
            f"{spec!r} is remote; only local files are read. Download it and give its path; pretraining can also read "
            "shards without a download: 'stream:https://...'."
        )
    if kind == "torchvision":
        _refuse(columns, spec)
        return open_torchvision(rest, split)
    if kind == "hf":
        return open_hub(rest, split, columns)
    path = Path(spec)
    if not spec or not os.path.exists(path):
        if "{" in spec:
            shards = [_shard(name, spec) for name in expand_braces(str(path))]
            groups = files_by_split(shards, spec)
            return open_tar(groups if len(groups) > 1 else {"train": shards}, split)  # one group is "train"
        known = names_at_home()
        there = f", or a name in {home()}: {named(known)}" if known else ""
        raise DataError(f"{spec!r} doesn't exist or can't be reached; pass {KINDS}{there}.")
    if path.is_dir():
        return _open_folder(path, split, columns)
    if path.suffix.lower() == ".parquet":
        return open_parquet({"train": [path]}, split, columns)
    _refuse(columns, spec)
    return _open_file(path, split)


def _shard(name: str, pattern: str) -> Path:
    if not Path(name).is_file():
        raise DataError(f"the shard {name} of {pattern!r} doesn't exist; pass a range of shards that all exist.")
    return Path(name)


def _refuse(columns: Mapping[str, str], spec: str) -> None:
    if columns:
        given = ",".join(f"{role}={name}" for role, name in columns.items())
        raise DataError(f"{spec!r} has no columns, so leave out {given!r}; Parquet files and hf:NAME have columns.")


def _open_file(path: Path, split: str) -> Raw:
    if path.suffix.lower() == ".tar":
        return open_tar({"train": [path]}, split)
    raise DataError(f"{path} is of unknown type {path.suffix!r}; unpack archives, and give {KINDS}.")


def _open_folder(folder: Path, split: str, columns: Mapping[str, str]) -> Raw:
    if any((folder / name).exists() for name in SAVED_FILES):
        return open_saved(folder, split, columns)
    if packs := _files(folder, ".parquet"):
        return _beside(open_parquet(files_by_split(packs, str(folder)), split, columns), folder, ".parquet")
    _refuse(columns, str(folder))
    if shards := _files(folder, ".tar"):
        return _beside(open_tar(files_by_split(shards, str(folder)), split), folder, ".tar")
    return open_folder(folder, split)


def _files(folder: Path, suffix: str) -> list[Path]:
    return [file for file in folder.glob("[!.]*") if file.suffix.lower() == suffix and file.is_file()]


def _beside(raw: _Files, folder: Path, suffix: str) -> _Files:
    """Returns the same images, with an inventory that lists everything else in the folder."""
    entries = [entry for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if entry.name[0] != "."]
    names = [entry.name for entry in entries if entry.is_dir() or suffix_of(entry.name) != suffix]
    if not names:
        return raw
    others = f"{named(names)} (beside the {suffix} files)"
    return replace(raw, inventory=replace(raw.inventory, left_out=(*raw.inventory.left_out, others)))


def _expected_bytes(spec: str, raw: Raw) -> int:
    """Returns the estimated size of the decoded images in bytes, from the headers of a sample."""
    if not len(raw):
        raise DataError(f"{spec} has no images in this split.")
    if (cached := decoded_bytes(raw.fingerprint)) is not None:
        return cached
    sizes, example = [], ""
    for index in evenly_spaced(len(raw), _SAMPLE).tolist():
        try:
            with undecodable():
                sizes.append(decoded_size(raw.encoded(index)))
        except UndecodableImage as error:
            example = f"{raw.describe(index)} ({error})"
    if not sizes:
        raise DataError(f"none of the {len(raw)} images of {spec} can be read, e.g. {example}.")
    estimate = math.ceil(sum(sizes) / len(sizes) * len(raw))
    note_decoded_bytes(raw.fingerprint, estimate)
    return estimate
