"""A model as a folder: what `save_pretrained` writes is what timm, plain or with star_zoo, and `load_objective` read.

The same files make a repository on the Hub, and a tag in the local store.

model.safetensors, config.json    the backbone, in timm's own format with timm's own architecture name
heads.safetensors, heads.json     the objective: weights; name, settings, feature width, policy
recipe.json, results.json         what made it and what was measured, where given
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from . import objectives, star_backbones, store, zoo
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
        tensors = {k: v.detach().cpu().contiguous() for k, v in objective.published().items()}
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
        config = json.loads(part.read_text(encoding="utf-8"))
        config.get("model_args", {}).pop("num_classes", None)  # said beside it too, which transformers takes for twice
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_objective(name: str | Path, *, cache_dir: str | Path | None = None) -> Objective:
    """The trained objective of a model: heads, router, shift predictor, standardisation and policy.

    `name` is a saved folder, a tag (`star_resnet18.stl10`) or `hf-hub:OWNER/NAME[@REVISION]`; `cache_dir` is the Hub
    client's cache. The objective computes the loss it was trained with: `objective(batch, encoder)`, or
    `objective.terms(features, params)` of a `FeatureObjective`. Nothing is ever unpickled.

    Raises FileNotFoundError where the model has no heads, `zoo.NotAvailable` where its files can't be downloaded, and
    ValueError where they don't fit heads.json or their objective's module can't be imported.
    """
    where = place(name)
    described, weights = (zoo.fetch(where, file, cache_dir) for file in ("heads.json", "heads.safetensors"))
    config = _read_config(described)
    try:
        policy = Policy.from_dict(config["policy"])
        with torch.device("meta"):  # sizes are compared before anything of a size that a file asks for is allocated
            objective = objectives.build(config["objective"], config["num_features"], policy, **config["settings"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"{described} describes no objective that can be built: {told}") from error
    tensors = _read_tensors(weights, objective)
    if tensors.keys() != objective.state_dict().keys():  # what is not published starts as in a fresh objective
        with torch.random.fork_rng(devices=[]):
            objective = objectives.build(config["objective"], config["num_features"], policy, **config["settings"])
    objective.load_state_dict(tensors, strict=False, assign=True)
    return objective


def place(name: str | Path) -> Path | zoo.Repository:
    """Where a model's files are, by any of its names; a folder where nothing else is meant."""
    if isinstance(name, str) and name.startswith(zoo.HUB_PREFIX):
        return zoo.Repository.parse(name)
    folder = Path(str(name).removeprefix("local-dir:"))
    if isinstance(name, str) and name.startswith("star_") and not folder.is_dir():
        return star_backbones.place(name)
    return folder


def install(folder: str | Path, tag: str) -> Path:
    """Puts a saved model into the local store, so that `timm.create_model(tag, pretrained=True)` finds it.

    `tag` is star_ARCHITECTURE.NAME with the architecture of the model; what was installed under it is replaced. Gives
    the folder in the store. Raises ValueError for a tag that doesn't fit or a folder that doesn't load.
    """
    folder = Path(folder)
    check(folder)
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architecture"].partition(".")[0]
    if store.place(tag).name.partition(".")[0] != f"star_{architecture}":
        raise ValueError(f"{folder} holds a {architecture}; its tag must be star_{architecture}.NAME, not {tag!r}")
    star_backbones.read_config(folder / "config.json", tag)  # before it takes the place of one that works
    return store.put(tag, [folder / name for name in store.FILES if (folder / name).is_file()])


def check(folder: Path) -> None:
    """Raises ValueError or FileNotFoundError where a saved model is not complete, intact and loadable by plain timm."""
    for name in ("config.json", "model.safetensors"):
        zoo.fetch(folder, name)
    try:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        model = timm.create_model(f"local-dir:{folder}", pretrained=False, device="meta")
    except Exception as error:  # timm meets a file that says anything, and its errors are of every kind
        raise ValueError(f"{folder} holds no model that timm loads: {' '.join(str(error).split())[:300]}") from error
    _compare(
        folder / "model.safetensors", "config.json", {k: list(v.shape) for k, v in model.state_dict().items()}, found
    )
    if any((folder / name).exists() for name in ("heads.json", "heads.safetensors")):
        load_objective(folder)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format_version", "objective", "num_features", "settings", "policy"} - set(config)
    except (RecursionError, TypeError, ValueError) as error:
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
    """The file's tensors, if they are those that the objective publishes, in name and shape."""
    state = objective.published()
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            _compare(path, "heads.json", {name: list(t.shape) for name, t in state.items()}, found)
            tensors = {name: file.get_tensor(name) for name in found}
    except SafetensorError as error:
        raise ValueError(f"{path} is not an intact safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise ValueError(f"{path} does not fit its heads.json: {name} is {tensor.dtype}, needs {state[name].dtype}")
    return {name: tensor.to(state[name].dtype) for name, tensor in tensors.items()}  # saved in half precision, perhaps


def _compare(path: Path, described: str, expected: dict[str, list[int]], found: dict[str, list[int]]) -> None:
    """Raises ValueError, naming the first few tensors, where the shapes in a file are not those that are expected."""
    if differing := [k for k in sorted(expected | found) if expected.get(k) != found.get(k)]:
        told = ", ".join(f"{k} is {found.get(k, 'missing')}, needs {expected.get(k, 'none')}" for k in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(f"{path} does not fit its {described}: {told}{more}")
