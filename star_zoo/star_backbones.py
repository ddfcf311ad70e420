"""The star_* models: timm's architectures under our names, and our own; one row of `tags.TAGS` per set of weights.

Importing this module registers every row with timm, so that `timm.create_model("star_resnet18.stl10")` works like any
other timm name. The network is timm's or one of group_resnet.py, without a classifier: images (B, 3, S, S) -> features
(B, D). A row adds the properties of the pretraining data that timm can't know: pixel statistics, input size and crop.
Models in the local store are registered too, with the properties in their config.json.
"""

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from timm.models import (
    PretrainedCfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from star_catalog import store, tags, zoo
from star_catalog.reading import one_line, refusing

from . import bounds, group_resnet, own_networks, wrapped_model

__all__: list[str] = []  # register_model adds the names

_PREFIX = "star_"
_WEIGHTS = "model.safetensors"  # the only file that is loaded, because timm's fallback is a pickle
_SOURCES = {"file", "hf_hub_id", "state_dict", "url"}  # an overlay with one of these names weights for timm to load


class _Network(NamedTuple):
    """The network of a star_* architecture."""

    saved: str  # its name in a saved model's config.json; timm's where timm has it, so that plain timm loads the model
    structure: PretrainedCfg  # names of layers, sizes of inputs and maps; the rest describes other weights
    build: Callable[..., nn.Module]  # with the arguments of timm's entrypoints


def _network(name: str) -> _Network:
    """Returns the network of a star_* architecture. Raises ValueError for an unknown one."""
    if name in group_resnet.ARCHITECTURES:
        return _Network(name, group_resnet.structure(name), functools.partial(group_resnet.create, name))
    stock = name.removeprefix(_PREFIX)
    own_networks.check_free(stock)
    structure = get_pretrained_cfg(stock)
    if structure is None:
        raise ValueError(
            f"architecture {name!r} is unknown: timm has no {stock!r} with a cfg (see timm.list_models()), and "
            f"star_zoo's own are {', '.join(group_resnet.ARCHITECTURES)}; a newer star_zoo may have it"
        )
    return _Network(stock, structure, model_entrypoint(stock))


def is_own(saved: str) -> bool:
    """Returns whether the architecture that a saved model's config.json names is star_zoo's, unknown to plain timm."""
    return saved in group_resnet.ARCHITECTURES or saved == wrapped_model.NAME


def star_name(saved: str) -> str:
    """Returns the star_* name of the architecture that a saved model's config.json names."""
    return saved if saved in group_resnet.ARCHITECTURES else _PREFIX + saved


def _cfg(name: str, size: int, channels: int = 3, **row: Any) -> PretrainedCfg:
    """Returns the timm cfg of a row: structure from the cfg of its network, everything else from the row.

    Raises ValueError if the architecture is unknown.
    """
    base = _network(name.partition(".")[0]).structure
    # The rest of timm's cfg (statistics, test size, custom_load) describes timm's weights.
    return PretrainedCfg(
        input_size=(channels, size, size),
        fixed_input_size=base.fixed_input_size,
        min_input_size=base.min_input_size,
        pool_size=base.pool_size and 2 * (math.ceil(size / 32),),  # None for a ViT; timm's suite checks the 32
        first_conv=base.first_conv,
        classifier=base.classifier,
        file=_local_weights(name),  # so that timm lists the tag as pretrained
        # resize to S, crop S
        **{"num_classes": 0, "crop_pct": 1.0, "interpolation": "bicubic", "license": tags.LICENSE, **row},
    )


def _local_weights(tag: str) -> str | None:
    """Returns the file of a tag's weights if the tag is installed or embedded in the package."""
    place = zoo.find(tag)
    return str(place / _WEIGHTS) if isinstance(place, Path) else None


def read_config(path: Path, tag: str) -> tuple[PretrainedCfg, dict[str, Any]]:
    """Returns the cfg and the model arguments of a tag from a config.json. Raises OSError, or ValueError if invalid."""
    row, arguments = tags.read_config(path)
    with refusing(f"{path} is not a valid config.json"):
        bounds.check_numbers({"model_args": arguments, **row}, "its data")
        cfg = _cfg(tag, **row)
    architecture, _, name = tag.partition(".")
    return replace(cfg, architecture=architecture, tag=name), arguments


def _installed(tag: str, folder: Path) -> tuple[PretrainedCfg, dict[str, Any]]:
    """Returns `read_config` of a tag's folder in the local store. Raises NotAvailable if it fails."""
    try:
        return read_config(folder / "config.json", tag)
    except (OSError, ValueError) as error:
        raise zoo.NotAvailable(f"{error}; install {tag} again, or remove its folder") from error


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """Returns the function that timm calls to build `name`; it passes our cfg to the network's own entrypoint."""
    saved, _, build = _network(name)

    def star_model(
        pretrained: bool = False,
        pretrained_cfg: Any = None,  # the name of a tag, or a timm cfg
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        by_tag = pretrained_cfg is None or isinstance(pretrained_cfg, str)
        tag = f"{name}.{pretrained_cfg}" if by_tag and pretrained_cfg else tags.full(name)
        # looked up once for config and weights, because an install in between changes the tag's folder
        if by_tag:
            tags.check(tag)
        installed = store.folder(tag) if by_tag and tag in store.installed() else None
        within: Any = contextlib.nullcontext()
        arguments: dict[str, Any] = {}
        if installed:
            pretrained_cfg, arguments = _installed(tag, installed)
            kwargs = arguments | kwargs
            weights = installed / _WEIGHTS
            within = bounds.limited(bounds.held_by(weights if weights.is_file() else None), tag)
        overlay = dict(pretrained_cfg_overlay or {})
        ours = pretrained and by_tag and not _SOURCES & set(overlay)
        if ours and "num_classes" in overlay:  # of a new classifier, because the weights have none
            kwargs.setdefault("num_classes", overlay.pop("num_classes"))
        # Resolved here, because timm's entrypoint would look up our tag under its own name.
        cfg = replace(resolve_pretrained_cfg(name, pretrained_cfg, overlay), architecture=saved)
        model: nn.Module
        if not ours:
            with within:
                model = build(pretrained=pretrained, pretrained_cfg=cfg, cache_dir=cache_dir, **kwargs)
        else:
            file = _fetch(tag, installed, cache_dir)
            with _invalid_weights(tag, file), within:
                model = build(pretrained=True, pretrained_cfg=replace(cfg, file=str(file)), **kwargs)
                _check_complete(model, cfg, file)
        # timm adds the arguments of its caller, and writes all of them when it saves the model
        vars(model)["_model_args"] = arguments | getattr(model, "_model_args", {})
        return model

    star_model.__name__ = star_model.__qualname__ = name
    kind = "The network" if is_own(saved) else "timm's"
    star_model.__doc__ = f"{kind} {saved} without a classifier, pretrained with star-zoo: (B, 3, S, S) -> (B, D)."
    return star_model


def _fetch(tag: str, installed: Path | None, cache_dir: str | Path | None) -> Path:
    """Returns the file of a tag's weights. Raises NotAvailable; timm's error would name the stock architecture."""
    try:
        if installed and (installed / _WEIGHTS).is_file():
            return installed / _WEIGHTS
        return zoo.fetch(tags.place(tag), _WEIGHTS, cache_dir)
    except (FileNotFoundError, zoo.NotAvailable) as error:
        more = (
            "load a file with pretrained_cfg_overlay=dict(file=...) or a saved folder as 'local-dir:FOLDER'; or pass "
            "pretrained=False"
        )
        raise not_available("weights", tag, error, more) from error


def not_available(what: str, tag: str, error: Exception, more: str) -> zoo.NotAvailable:
    """Returns the error for a tag whose files are at none of the places, with the ways out and `more` of them."""
    reason = error.reason if isinstance(error, zoo.NotAvailable) else error
    return zoo.NotAvailable(
        f"no {what} for {tag}: none in the local store ({store.folder(tag)}), none in the package, and {reason}. "
        f"Ways out: train it and run `star-zoo install RUN {tag}`; run `star-zoo convert` with --install on a "
        "released checkpoint; set STAR_ZOO_HUB_ORG=OWNER for other repositories or HF_ENDPOINT=URL for a mirror; "
        f"{more}."
    )


@contextlib.contextmanager
def _invalid_weights(tag: str, file: Path) -> Iterator[None]:
    """Raises NotAvailable, with a one-line message, for damaged weights or weights that don't fit."""
    try:
        yield
    except SafetensorError as error:
        raise zoo.NotAvailable(f"{file}, the weights of {tag}, is not an intact safetensors file: {error}") from error
    except RuntimeError as error:
        if "load" not in str(error).partition("\n")[0]:
            raise  # not about the weights
        raise zoo.NotAvailable(f"{file} does not fit {tag}: {one_line(error)}") from error


def _check_complete(model: nn.Module, cfg: PretrainedCfg, file: Path) -> None:
    """Raises RuntimeError if weights are missing; with a new classifier, timm loads the weights without this check."""
    classifiers = (cfg.classifier,) if isinstance(cfg.classifier, str) else tuple(cfg.classifier or ())
    if getattr(model, "num_classes", 0) and classifiers:
        with safe_open(file, framework="pt") as weights:
            missing = set(model.state_dict()) - set(weights.keys())
        if missing := {k for k in missing if not k.startswith(classifiers)}:
            raise RuntimeError(f"could not load {', '.join(sorted(missing)[:3])}: not in the file")


def _rows() -> dict[str, Any]:
    """Returns the cfgs of all tags, including those in the local store; "*" marks an architecture's default tag."""
    rows: dict[str, Any] = {tag: _cfg(tag, **row) for tag, row in tags.TAGS.items()}
    for tag in store.installed():
        with contextlib.suppress(zoo.NotAvailable):  # a broken model raises when it is created, not at import
            rows[tag] = _installed(tag, store.folder(tag))[0]
    first = {tag.partition(".")[0]: tag for tag in reversed(rows)}
    return {f"{tag}*" if first[tag.partition(".")[0]] == tag else tag: cfg for tag, cfg in rows.items()}


def register(architecture: str) -> None:
    """Registers all tags of an architecture with timm again, e.g. after one was installed."""
    rows = {tag: cfg for tag, cfg in _rows().items() if tag.partition(".")[0] == architecture}
    default_cfgs.update(generate_default_cfgs(rows))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Overwriting")  # timm's own warning
        globals()[architecture] = register_model(_entrypoint(architecture))


default_cfgs = generate_default_cfgs(_rows())  # timm reads this name

for _name in default_cfgs:
    globals()[_name] = register_model(_entrypoint(_name))
