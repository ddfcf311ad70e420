"""Results of `eval all` in the local store, so that a call that was stopped goes on where it stopped.

A result is found again only for the same protocol, seed, weights, settings and images, packages and code.
"""

import contextlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from star_catalog import store
from star_catalog.files import write_json
from star_catalog.reading import json_object

from ..data.eval_sets.dataset import Splits
from ..data.sources.base import NoSuchSplit
from ..data.sources.raw import digest
from ..models.identity import code
from .frozen_model import FrozenModel
from .record import Record

_COMPUTE = ("torch", "torchvision", "timm", "pillow", "scikit-learn", "scipy", "numpy")
_SOURCES = ("star_catalog", "star_zoo", "star_training")  # whose code may change without a new version
_MOST_KEPT = 1000  # results, each of a few kB


def key(protocol: str, model: FrozenModel, splits: Splits, seed: int) -> str:
    """Returns a hex string that changes with all that the result of a protocol depends on. Opens all splits."""
    data = splits.name, [_fingerprint(splits, name) for name in ("train", "val", "test")]
    packages = [_version(package) for package in _COMPUTE]
    return digest(("finished", protocol, model.name, model.fingerprint, data, seed, packages, code(*_SOURCES)))


def read(key: str) -> Record | None:
    """Returns the result under a key; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        return Record.from_dict(json_object(_file(key), "result"))
    return None


def write(key: str, record: Record) -> None:
    """Stores a result, and removes the oldest ones of many; does nothing but a note if the store can't be written."""
    with store.keeping():
        write_json(_file(key), record.to_dict())
        entries = sorted(_file(key).parent.iterdir(), key=os.path.getmtime)
        for entry in entries[: max(0, len(entries) - _MOST_KEPT)]:
            entry.unlink(missing_ok=True)


def _fingerprint(splits: Splits, name: str) -> str | None:
    try:
        source = getattr(splits, name)
    except NoSuchSplit:
        return None
    return source and source.fingerprint


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _file(key: str) -> Path:
    return store.home() / "evaluations" / f"{key}.json"
