"""The files behind a model's name: a run, a saved folder, a zoo tag, `hf-hub:OWNER/NAME`, or none of ours."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog import tags, zoo
from star_catalog.printing import as_typed

from .names import Leaf, Model, Wrapped, names_path, parse

if TYPE_CHECKING:  # star_zoo imports timm, which finding files doesn't need
    from star_zoo import Objective


def model_folder(name: str) -> Path | None:
    """Returns the folder with the exported model that a name means: an export, or a run that has one.

    None for other names: untrained models and wrappers have none.
    """
    model = parse(name)
    return None if isinstance(model, Wrapped) or model.untrained else zoo.exported(model.name)


def called(name: str) -> str:
    """Returns a model's name in records and tables: runs and folders by their names alone, wherever they are.

    Records are published, and must not contain a user's folders.
    """
    return str(_called(parse(name)))


def _called(model: Model) -> Model:
    if isinstance(model, Wrapped):
        return replace(model, models=tuple(map(_called, model.models)))
    folder = Path(model.name.removeprefix("local-dir:"))
    return replace(model, name=zoo.called(folder)) if folder.exists() else model


def label(recorded: str) -> str:
    """Returns the short name, for a page, of a model as a record names it: a wrapper's in full, others without path."""
    return recorded if isinstance(parse(recorded), Wrapped) else Path(recorded).name or recorded


def saved_folder(name: str) -> Path:
    """Returns the folder as `model_folder`. Raises ValueError for names that mean no folder."""
    if isinstance(parse(name), Wrapped):
        raise ValueError(f"{name!r} is a wrapper; only a saved folder can be published, installed or shown: pass one")
    folder = model_folder(name) if names_path(name) else None
    if folder is None:
        source = ["OWNER/NAME"]
        if name.startswith(zoo.HUB_PREFIX):
            repo_id, revision = zoo.Repository.parse(name)
            source = [repo_id, *(["--revision", revision] if revision else [])]
        download = as_typed("hf", "download", *source, "--local-dir", "FOLDER")
        raise ValueError(
            f"{name!r} is no folder on this machine; pass a run or a saved folder, which `{download}` gets from the Hub"
        )
    return folder


def single(name: str, reason: str) -> Leaf:
    """Returns the one model that a name means. Raises ValueError for a wrapper, with the reason in the message."""
    model = parse(name)
    if isinstance(model, Wrapped):
        raise ValueError(f"{name!r} is a wrapper; {reason}")
    return model


def tag_folder(tag: str) -> Path | None:
    """Returns the folder on this machine with a star_* tag's weights, installed or in the package, or None.

    Raises ValueError for an unknown architecture or an invalid tag.
    """
    if not tag.startswith("star_"):
        return None
    place = tags.place(tag)
    return place if isinstance(place, Path) else None


def saved_objective(name: str) -> "Objective | None":
    """Returns the objective that was saved with a model, or with the one model in a wrapper.

    None without one: for most timm models, untrained models, several models joined, and embeddings by `heads`.
    """
    return objective_of(parse(name))


def objective_of(model: Model) -> "Objective | None":
    """Returns the objective as `saved_objective`, for a parsed name."""
    from star_zoo import hub, load_objective, wrappers

    if isinstance(model, Wrapped):
        fits = len(model.models) == 1 and not wrappers.find(model.wrapper).uses_heads
        return objective_of(model.models[0]) if fits else None
    if model.untrained:
        return None
    name = hub.timm_name(model.name)
    if not name.startswith(("local-dir:", "star_", zoo.HUB_PREFIX)):
        return None
    try:
        return load_objective(name)
    except FileNotFoundError:
        return None
