"""A model as a folder: what `save_pretrained` writes is what timm, plain or with star_zoo, and `load_objective` read.

model.safetensors, config.json    the backbone, in timm's own format with timm's own architecture name
heads.safetensors, heads.json     the objective: weights; name, settings, feature width, policy
recipe.json, results.json         what made it and what was measured, where given
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from . import objectives
from .augmentations import Policy
from .files import replacing, write_json
from .objectives import Objective

FORMAT_VERSION = 1  # of heads.json; raised when an older star_zoo could not read the new one


def save_pretrained(
    folder: str | Path,
    backbone: nn.Module,
    objective: Objective | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a backbone and, where given, its objective, recipe and results into a folder; gives the folder.

    The backbone is a timm model (`star_*` or any other) and loads again with
    `timm.create_model("local-dir:FOLDER", pretrained=True)`, without star_zoo. `model_args` are the keyword arguments
    beyond timm's defaults that it was created with (`img_size` of a ViT). Each file is whole or not there.
    """
    folder = Path(folder)
    if objective is not None and not objective.config:
        raise ValueError("this objective can't be loaded again: make it with star_zoo.objectives.build, then save it")
    _save_backbone(folder, backbone, model_args)
    if objective is not None:
        tensors = {k: v.detach().cpu().contiguous() for k, v in objective.state_dict().items()}
        with replacing(folder / "heads.safetensors") as part:
            save_file(tensors, part, metadata={"format": "pt"})
        fields = list(objective.policy.fields)
        write_json(folder / "heads.json", {"format_version": FORMAT_VERSION, **objective.config, "fields": fields})
    if recipe is not None:
        write_json(folder / "recipe.json", recipe)
    if results is not None:
        write_json(folder / "results.json", results)
    return folder


def _save_backbone(folder: Path, backbone: nn.Module, model_args: Mapping[str, Any] | None) -> None:
    # not timm's own save_for_hf: safetensors refuses channels_last tensors, and a training run must keep its layout
    state = {k: v.detach().cpu().contiguous() for k, v in backbone.state_dict().items()}
    with replacing(folder / "model.safetensors") as part:
        save_file(state, part, metadata={"format": "pt"})
    with replacing(folder / "config.json") as part:
        save_config_for_hf(backbone, str(part), model_args=dict(model_args or {}) or None)


def load_objective(folder: str | Path) -> Objective:
    """The trained objective of a saved folder: heads, router, shift predictor, standardisation and policy.

    It computes the loss it was trained with: `objective(features, params)`. Raises FileNotFoundError where the folder
    has no heads, ValueError where they don't fit what heads.json says; nothing is ever unpickled.
    """
    folder = Path(folder)
    for name in ("heads.json", "heads.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; an objective is saved by save_pretrained or a finished run"
            )
    config = _read_config(folder / "heads.json")
    try:
        policy = Policy.from_dict(config["policy"])
        with torch.device("meta"):  # sizes are compared before anything of a size that a file asks for is allocated
            objective = objectives.build(config["objective"], config["num_features"], policy, **config["settings"])
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:  # what settings of a wrong kind end in
        told = str(error).partition("\n")[0]
        raise ValueError(f"{folder / 'heads.json'} describes no objective that can be built: {told}") from error
    objective.load_state_dict(_read_tensors(folder / "heads.safetensors", objective), assign=True)
    return objective


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format_version", "objective", "num_features", "settings", "policy"} - set(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the JSON of saved heads: {error}") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; it was not written by save_pretrained")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {config['format_version']}, this star_zoo reads {FORMAT_VERSION}; "
            "install the version of star_zoo that its card names"
        )
    return config


def _read_tensors(path: Path, objective: Objective) -> dict[str, torch.Tensor]:
    """The file's tensors, if they are those of the objective in name and shape."""
    state = objective.state_dict()
    expected = {name: list(t.shape) for name, t in state.items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            if found != expected:
                differing = [k for k in sorted(expected | found) if expected.get(k) != found.get(k)]
                told = ", ".join(
                    f"{k} is {found.get(k, 'missing')}, needs {expected.get(k, 'none')}" for k in differing[:3]
                )
                more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
                raise ValueError(f"{path} does not fit its heads.json: {told}{more}")
            tensors = {name: file.get_tensor(name) for name in found}
    except SafetensorError as error:
        raise ValueError(f"{path} is not an intact safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise ValueError(f"{path} does not fit its heads.json: {name} is {tensor.dtype}, needs {state[name].dtype}")
    return tensors
