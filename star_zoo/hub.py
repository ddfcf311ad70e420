"""Loads models by any of their names, and installs them: runs, saved folders, tags and repositories on the Hub.

`saving` describes the files of a saved model.
"""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache

from star_catalog import store, tags, zoo
from star_catalog.files import user_path
from star_catalog.reading import json_object, refusing

from . import bounds, objectives, own_networks, star_backbones
from .augmentations import Policy
from .objectives import Objective
from .saving import FORMAT_VERSION
from .weights_file import check_finite, read_shapes, read_tensors


def load_objective(name: str | Path, *, cache_dir: str | Path | None = None) -> Objective:
    """Returns the trained objective of a model: its heads, router, shift predictor, standardisation and policy.

    `name` is a finished run, a saved folder, a tag, e.g. `star_resnet18.stl10`, or `hf-hub:OWNER/NAME[@REVISION]`;
    `cache_dir` is the cache of the Hub's client. The objective computes its training loss by
    `objective(batch, encoder)` or, if it is a `FeatureObjective`, by `objective.terms(features, params)`. Nothing is
    unpickled.

    Raises FileNotFoundError if the model has no heads, `zoo.NotAvailable` if its files can't be downloaded, and
    ValueError if heads.json is invalid, the weights don't fit it or the objective's module can't be imported.
    """
    described, weights = (_fetch_heads(name, file, cache_dir) for file in ("heads.json", "heads.safetensors"))
    config = _read_config(described)
    with refusing(f"{described} does not describe a valid objective"):
        bounds.check_numbers(config, "its data")
        policy = Policy.from_dict(config["policy"])
        # shapes are compared before memory is allocated for sizes read from a file
        with torch.device("meta"), bounds.limited(bounds.held_by(weights), "the objective"):
            objective = objectives.build(config["objective"], config["num_features"], policy, **config["settings"])
    tensors = _read_tensors(weights, objective)
    needed = {name for name, _ in (*objective.named_parameters(), *objective.named_buffers())}
    if tensors.keys() != needed:  # tensors that are not published are initialised afresh
        with torch.random.fork_rng(devices=[]):
            objective = objectives.build(config["objective"], config["num_features"], policy, **config["settings"])
    objective.load_state_dict(tensors, strict=False, assign=True)
    return objective


def load_policy(name: str | Path, *, cache_dir: str | Path | None = None) -> Policy:
    """Returns the policy that a model was pretrained with, from its heads.json alone; names as in `load_objective`."""
    described = _fetch_heads(name, "heads.json", cache_dir)
    with refusing(f"{described} does not describe a valid policy"):
        config = _read_config(described)
        bounds.check_numbers(config["policy"], "its data")
        return Policy.from_dict(config["policy"])


def _fetch_heads(name: str | Path, file: str, cache_dir: str | Path | None = None) -> Path:
    """Returns a file of a model's heads as `zoo.fetch` does; a run's is in its export."""
    where = place(name)
    if isinstance(where, Path) and not (where / file).is_file():
        if not where.exists():
            raise FileNotFoundError(
                f"{str(where)!r} doesn't exist; pass a finished run, a saved folder, a star_* tag, or hf-hub:OWNER/NAME"
            )
        where = where / "export" if (where / "export").is_dir() else where
    try:
        return zoo.fetch(where, file, cache_dir)
    except zoo.NotAvailable as error:
        if not str(name).startswith("star_"):
            raise
        raise star_backbones.not_available(
            "heads", tags.full(str(name)), error, "or pass a finished run or a saved folder"
        ) from error


def place(name: str | Path) -> Path | zoo.Repository:
    """Returns the folder or repository of a model, given any of its names; an unrecognised name is a folder.

    Raises ValueError for an invalid name of a repository or a tag.
    """
    if isinstance(name, str) and name.startswith(zoo.HUB_PREFIX):
        return zoo.Repository.parse(name)
    folder = user_path(str(name).removeprefix("local-dir:"))
    if isinstance(name, str) and name.startswith("star_") and not folder.is_dir():
        return tags.place(name)
    return folder


def timm_name(name: str) -> str:
    """Returns the name of a model as timm's `create_model` takes it: without `timm:`, runs and folders as local-dir:.

    Weights on the Hub are downloaded here, because timm would accept a damaged file. Raises `zoo.NotAvailable`.
    """
    folder = zoo.exported(name)
    if name.startswith(zoo.HUB_PREFIX):
        zoo.fetch_weights(zoo.Repository.parse(name))
    return f"local-dir:{folder}" if folder else name.removeprefix("timm:")


def create(name: str, *, pretrained: bool = True, **arguments: Any) -> Any:
    """Creates a timm model by any name: a run, a saved folder, a tag, `hf-hub:OWNER/NAME` or timm's own.

    `arguments` are those of `timm.create_model`. The sizes that a config.json or an argument states are checked before
    anything is allocated; see `bounds`. Raises ValueError if they are out of bounds, for an unknown name and for a
    damaged file of weights, `zoo.NotAvailable` if weights on the Hub can't be downloaded, and whatever timm raises for
    a model that it can't load.
    """
    known_as = timm_name(name)
    saved = known_as.startswith(("local-dir:", zoo.HUB_PREFIX))
    if not saved:
        check_name(known_as)
    weights = bounds.check_config(place(known_as)) if saved else None
    if saved:
        own_networks.register_saved(place(known_as))
    if weights and pretrained:
        read_shapes(weights)  # raises for a damaged file, which timm's error wouldn't name
    model = bounds.check_model(known_as, name, weights, **arguments)
    if arguments.get("device") == "meta" and not pretrained:
        return model
    if pretrained and not saved:
        _check_downloadable(known_as)
    made = timm.create_model(known_as, pretrained=pretrained, **arguments)
    return made if saved else _named(made, known_as.partition(".")[0])


def _named(model: Any, architecture: str) -> Any:
    """Returns the model; the cfg of a user's network, which may be one of timm's modified, names the user's."""
    if own_networks.is_users(architecture):
        model.pretrained_cfg = {**model.pretrained_cfg, "architecture": architecture}
    return model


def check_name(name: str) -> None:
    """Raises ValueError for a name that is none of timm's models, with the most similar ones."""
    if ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"{name!r} is no timm model; {hint}timm.list_models() lists all")
    own_networks.check_free(name.partition(".")[0])


def _check_downloadable(name: str) -> None:
    """Raises NotAvailable if timm's weights are to be downloaded from the Hub, which can't be reached."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id or name.startswith("star_"):
        return
    if not any(try_to_load_from_cache(cfg.hf_hub_id, file) for file in ("model.safetensors", "pytorch_model.bin")):
        zoo.check_downloadable(f"the weights of {name} are", f"{zoo.WAY_OUT}, or untrained:{name}")


def install(folder: str | Path, tag: str) -> Path:
    """Copies a saved model to the local store, so that `timm.create_model(tag, pretrained=True)` finds it from now on.

    `tag` is star_ARCHITECTURE.NAME with the architecture of the model; a model installed under the same tag is
    replaced. Returns the folder in the store. Raises FileNotFoundError if `folder` lacks a required file, and
    ValueError if the tag is invalid or names another architecture, or if the model does not load.
    """
    folder = user_path(folder)
    check(folder)
    saved = json_object(folder / "config.json", "config.json")["architecture"].partition(".")[0]
    architecture = star_backbones.star_name(saved)
    if store.place(tag).name.partition(".")[0] != architecture:
        raise ValueError(f"{folder} holds a {saved}; its tag must be {architecture}.NAME, not {tag!r}")
    star_backbones.read_config(folder / "config.json", tag)  # raises before a working model is replaced
    place = store.put(tag, [folder / name for name in store.FILES if (folder / name).is_file()])
    star_backbones.register(architecture)
    return place


def check(folder: Path) -> None:
    """Raises FileNotFoundError or ValueError unless a saved model is complete, intact, finite and loadable by timm."""
    for name in ("config.json", "model.safetensors"):
        zoo.fetch(folder, name)
    with refusing(f"{folder} holds no model that timm can load"):
        shapes = read_shapes(folder / "model.safetensors")
        model = create(str(folder), pretrained=False, device="meta")
        expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    _compare(folder / "model.safetensors", "config.json", expected, shapes)
    check_finite(folder / "model.safetensors")
    if own_networks.is_users(architecture := json_object(folder / "config.json", "config.json")["architecture"]):
        _check_read(folder, architecture)
    if any((folder / name).exists() for name in ("heads.json", "heads.safetensors")):
        width = load_objective(folder).config["num_features"]
        if width != model.head_hidden_size:
            raise ValueError(
                f"{folder} has heads for {width} features, but its model has {model.head_hidden_size}; they belong to "
                "different models: save both again by save_pretrained, or remove heads.json and heads.safetensors"
            )
        check_finite(folder / "heads.safetensors")


def _check_read(folder: Path, architecture: str) -> None:
    """Raises ValueError unless timm returns a saved model with its weights; a user's function may leave them out."""
    loaded = create(str(folder)).state_dict()
    for name, tensor in read_tensors(folder / "model.safetensors").items():
        if not torch.equal(loaded[name], tensor):
            raise ValueError(
                f"timm creates {architecture!r} from {folder} without its {name}: the function that is registered must "
                "load weights if `pretrained`, e.g. by timm.models.load_pretrained(model) at its end"
            )


def _read_config(path: Path) -> dict[str, Any]:
    config = json_object(path, "heads.json")
    if missing := {"format_version", "objective", "num_features", "settings", "policy"} - set(config):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; it was not written by save_pretrained")
    if config["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {config['format_version']}, but this star_zoo reads {FORMAT_VERSION}; "
            "install the version of star_zoo that the model's card names"
        )
    return config


def _read_tensors(path: Path, objective: Objective) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file. Raises ValueError unless they fit those that the objective publishes."""
    state = objective.published()
    _compare(path, "heads.json", {name: list(t.shape) for name, t in state.items()}, read_shapes(path))
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise ValueError(f"{path} does not fit its heads.json: {name} is {tensor.dtype}, needs {state[name].dtype}")
    return {name: tensor.to(state[name].dtype) for name, tensor in tensors.items()}  # may be saved in half precision


def _compare(path: Path, described: str, expected: dict[str, list[int]], found: dict[str, list[int]]) -> None:
    """Raises ValueError, naming up to three tensors, if the shapes found in a file differ from those expected."""
    if differing := [k for k in sorted(expected | found) if expected.get(k) != found.get(k)]:
        listed = ", ".join(f"{k} is {found.get(k, 'missing')}, needs {expected.get(k, 'none')}" for k in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(f"{path} does not fit its {described}: {listed}{more}")
