"""What determines a model that is made from files on this machine, found without creating its network."""

import contextlib
import os
from importlib.metadata import version
from pathlib import Path

from star_catalog import store
from star_catalog.names import folders
from star_catalog.reading import json_object

from ..data.contents import of_files, state
from ..data.sources.raw import digest
from .names import Leaf, Model, leaves
from .resolve import model_folder, tag_folder

_FILES = store.FILES[:4]  # weights and settings; neither recipe nor results
_PACKAGES = ("torch", "torchvision", "timm")  # that build and compute the network
# whose code may change without a new version
_SOURCES = ("star_catalog", "star_zoo", "star_training.models", "star_training.evaluation")


def identity(model: Model) -> str | None:
    """Returns a hex string that changes with all that the network, its settings and its preprocessing depend on.

    That is the model's name, the bytes of its files, the versions of the packages, this project's code and timm's
    environment variables. None if a part of the model has no files here: untrained models, timm's and the Hub's; and
    for a network of the user's, whose code is known only when it is created.
    """
    places = [_folder(leaf) for leaf in leaves(model)]
    if any(place is None or _is_users(place) for place in places):
        return None
    files = [place / name for place in places if place for name in _FILES]
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("TIMM_"))
    packages = [version(package) for package in _PACKAGES]
    return digest(("model", str(model), of_files(files), packages, code(*_SOURCES), settings))


def code(*packages: str) -> str:
    """Returns a hex string that changes with every write to a module of the packages."""
    found = [folder for package in packages for folder in folders(package)]
    return state(sorted(file for folder in found for file in Path(folder).rglob("*.py")))


def _is_users(place: Path) -> bool:
    """Returns whether a saved model's network is registered by a module of the user's."""
    with contextlib.suppress(OSError, ValueError):  # which `create` reports
        return "module" in json_object(place / "config.json", "config.json")
    return False


def _folder(leaf: Leaf) -> Path | None:
    if leaf.untrained:
        return None
    if folder := model_folder(leaf.name):
        return folder
    with contextlib.suppress(ValueError):  # an unknown tag, which `create` refuses
        return tag_folder(leaf.name)
    return None
