"""Saves models as folders that timm and `load_objective` read.

A repository on the Hub and a tag in the local store consist of the same files:

model.safetensors, config.json    the backbone, in timm's format under timm's architecture name, if timm has it
heads.safetensors, heads.json     the objective: its weights; its name, settings, feature width and policy
recipe.json, results.json         the recipe and the measurements, if given

At its top level, config.json has the names of a classifier's classes, `label_names` of the backbone's cfg, and the
module that registers a user's network with timm, which is imported to load it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models._hub import save_config_for_hf
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from star_catalog import store
from star_catalog.files import replacing, user_path, write_json

from . import own_networks, wrapped_model
from .backbone import Backbone
from .objectives import Objective
from .weights_file import read_tensors, write_tensors
from .wrappers import Wrapper

FORMAT_VERSION = 1  # of heads.json; increased when an older star_zoo can't read the new format
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def save_pretrained(
    folder: str | Path,
    backbone: nn.Module | Backbone,
    objective: Objective | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a backbone and, if given, its objective, recipe and results to a folder; returns the folder.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads the backbone again, without star_zoo if its network
    is timm's; star_zoo's own networks, e.g. `star_c4_resnet10t`, and wrappers need `import star_zoo` before.

    `backbone` is a timm model (`star_*` or any other) or a wrapper, also one that was compiled or that DDP holds;
    `model_args` are the keyword arguments beyond timm's defaults that it was created with, e.g. `img_size` of a ViT.
    Each file is written atomically. If the folder holds a model with other weights, its heads, recipe and results are
    removed. Raises ValueError, before any file is changed, for a module that isn't a timm model, and for an objective
    that was not made by `objectives.build`, because neither could be loaded again.
    """
    folder = user_path(folder)
    if objective is not None and not objective.config:
        raise ValueError("the objective has no config, so it can't be loaded again; make it with objectives.build")
    _save_backbone(folder, _savable(backbone), model_args)
    if objective is not None:
        write_tensors(folder / "heads.safetensors", objective.published())
        fields = list(objective.policy.fields)
        write_json(folder / "heads.json", {"format_version": FORMAT_VERSION, **objective.config, "fields": fields})
    if recipe is not None:
        write_json(folder / "recipe.json", recipe)
    if results is not None:
        write_json(folder / "results.json", results)
    return folder


def _savable(backbone: Any) -> Any:
    """Returns the timm model inside a compiled or distributed one. Raises ValueError for a module that is none."""
    while isinstance(backbone, DataParallel | DistributedDataParallel) or hasattr(backbone, "_orig_mod"):
        backbone = getattr(backbone, "_orig_mod", None) or backbone.module
    if not hasattr(backbone, "pretrained_cfg"):
        raise ValueError(
            f"{type(backbone).__name__} has no pretrained_cfg, so that timm could not load it again; save a model of "
            "timm.create_model, and register networks of your own with timm"
        )
    return wrapped_model.savable(backbone) if isinstance(backbone, Wrapper) else backbone


def _save_backbone(folder: Path, backbone: Any, model_args: Mapping[str, Any] | None) -> None:
    state = backbone.state_dict()
    with replacing(folder / _CONFIG) as part:  # replaces the old one last
        # before the weights, because it raises for a model that can't be saved
        _write_config(part, backbone, dict(model_args or {}))
        others = () if _holds(folder / _WEIGHTS, state) else set(store.FILES) - {_WEIGHTS, _CONFIG}
        write_tensors(folder / _WEIGHTS, state)
        for name in others:
            (folder / name).unlink(missing_ok=True)


def _write_config(path: Path, backbone: Any, model_args: dict[str, Any]) -> None:
    """Writes timm's config.json of a model, changed for the benefit of transformers and of users' networks."""
    save_config_for_hf(backbone, str(path), {"label_names": _label_names(backbone)}, model_args=model_args or None)
    config = json.loads(path.read_text(encoding="utf-8"))
    config["pretrained_cfg"].pop("label_names", None)  # timm and transformers read those at the top level
    own_networks.describe(config, backbone)
    config.get("model_args", {}).pop("num_classes", None)  # transformers rejects a duplicate of the top level's
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _holds(path: Path, state: Mapping[str, torch.Tensor]) -> bool:
    """Returns whether a file has exactly these tensors."""
    try:
        saved = read_tensors(path)
    except (OSError, ValueError):
        return False
    return saved.keys() == state.keys() and all(torch.equal(saved[name], t.cpu()) for name, t in state.items())


def _label_names(backbone: Any) -> list[str] | None:
    """Returns the names of a classifier's classes, if its cfg has one for each output."""
    names = backbone.pretrained_cfg.get("label_names")
    return [str(name) for name in names] if names and len(names) == backbone.num_classes else None
