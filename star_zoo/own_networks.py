"""Networks that a user registers with timm: the module that registers one, its import, and its source files."""

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any, TypeGuard

import timm
from timm.models import is_model, model_entrypoint
from torch import nn

from star_catalog import zoo
from star_catalog.reading import json_object

_OURS = ("star_zoo", "star_training")
_LIBRARIES = (*_OURS, "timm", "torch", "torchvision")  # whose versions are recorded, so that files needn't be
_WAY_OUT = "install its package, or add its folder to PYTHONPATH"


def is_users(architecture: str) -> bool:
    """Returns whether neither timm nor star_zoo registered an architecture."""
    if not is_model(architecture):
        return True
    return model_entrypoint(architecture).__module__.partition(".")[0] not in ("timm", *_OURS)


def module_of(architecture: str) -> str:
    """Returns the module that registered a user's architecture; "" for others, and if it can't be imported again."""
    if not is_model(architecture) or not is_users(architecture):
        return ""
    module = model_entrypoint(architecture).__module__
    return "" if module == "__main__" else module


def check_free(architecture: str) -> None:
    """Raises ValueError if a user registered a network under a name of timm's, because a saved one would be timm's."""
    if is_model(architecture) and is_users(architecture) and hasattr(timm.models, architecture):
        module = model_entrypoint(architecture).__module__
        raise ValueError(
            f"the module {module} registers its own network under a name of timm's, {architecture!r}; saved models "
            "would be taken for timm's: register it under another name"
        )


def import_module(module: Any, architecture: str) -> None:
    """Imports the module that registers an architecture, unless that is known. Raises ValueError if it stays unknown.

    `module` may come from a file: all but a dotted name is refused.
    """
    if is_model(architecture):
        return
    unknown = f"neither timm nor star-zoo has the network {architecture!r}"
    if not _is_dotted(module):
        raise ValueError(f"{unknown}; in Python, first import the module that registers it with timm")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        way_out = _WAY_OUT if f"{module}.".startswith(f"{error.name}.") else f"{module} needs it"
        raise ValueError(f"{unknown}, and its module can't be imported: {error}; {way_out}") from error
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{unknown}, and its module {module!r} can't be imported: {error}; correct it") from error
    if not is_model(architecture):
        raise ValueError(f"{unknown}, and the module {module!r} doesn't register it; correct it, or {_WAY_OUT}")


def register_saved(where: Path | zoo.Repository) -> None:
    """Imports the module of a saved model's config.json that registers a user's architecture, unless that is known.

    Raises ValueError if the architecture stays unknown. A missing config.json is for timm to report.
    """
    config = _config(where)
    if architecture := str(config.get("architecture", "")).partition(".")[0]:
        import_module(config.get("module"), architecture)


def module_of_saved(where: Path | zoo.Repository) -> str:
    """Returns the module that registers the network of a saved model, according to its config.json; "" if none."""
    module = _config(where).get("module")
    return module if _is_dotted(module) else ""


def _is_dotted(module: Any) -> TypeGuard[str]:
    return isinstance(module, str) and all(part.isidentifier() for part in module.split("."))


def _config(where: Path | zoo.Repository) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        return json_object(zoo.fetch(where, "config.json"), "config.json")
    return {}


def describe(config: dict[str, Any], model: nn.Module) -> None:
    """Adds to the config.json of a user's network its module, and the name of its classifier unless its cfg has it.

    timm needs the name to load the model without its classifier, or with another one.
    """
    if not is_users(config["architecture"]):
        return
    if module := module_of(config["architecture"]):
        config["module"] = module
    get_classifier: Any = getattr(model, "get_classifier", None)
    classifier = get_classifier() if get_classifier else None
    names = [name for name, layer in model.named_modules() if layer is classifier]
    if names and not config["pretrained_cfg"].get("classifier"):
        config["pretrained_cfg"]["classifier"] = names[0]


def sources(model: nn.Module) -> list[Path]:
    """Returns the files with the classes of a network's layers, sorted, except those of known libraries."""
    modules = {type(layer).__module__ for layer in model.modules()}
    files = {
        getattr(sys.modules.get(name), "__file__", None) for name in modules if name.partition(".")[0] not in _LIBRARIES
    }
    return sorted(Path(file) for file in files if file)
