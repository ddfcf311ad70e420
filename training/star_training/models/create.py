"""The module that a model's name means, and the policy of its views."""

import json
from typing import Any

import timm
import torch

from star_catalog import zoo
from star_catalog.reading import one_line, refusing
from star_zoo import Objective, Policy, hub, own_networks, wrappers
from star_zoo.augmentations.presets import of_config

from .names import Leaf, Model, check_scheme, leaves, parse
from .resolve import objective_of


def create(name: str, *, num_classes: int | None = 0, seed: int = 0, what: str = "model", **arguments: Any) -> Any:
    """Creates the model that a name means, on the CPU: a timm model, or a wrapper of some.

    Untrained models get random weights from `seed`; `arguments` are those of `timm.create_model`, for each model in a
    wrapper alike; with `num_classes` None, a saved classifier keeps its classes. With `device="meta"` no weights are
    read. Raises ValueError for a model that can't be loaded, which the message calls `what`.
    """
    model = parse(name)
    if any(leaf.untrained for leaf in leaves(model)):
        torch.manual_seed(seed)  # once, so that two untrained models in a wrapper differ
    if isinstance(model, Leaf):
        return _single(model, what, num_classes=num_classes, **arguments)
    made = _wrapped(model, what, arguments)
    made.reset_classifier(num_classes or 0)
    return made


def input_channels(name: str) -> int:
    """Returns the number of channels of the images that a model takes by itself; 3 if it isn't known."""
    leaf = next(leaves(parse(name)))
    try:
        if leaf.name.startswith(zoo.HUB_PREFIX) or zoo.exported(leaf.name):
            where = zoo.exported(leaf.name) or hub.place(leaf.name)
            config = json.loads(zoo.fetch(where, "config.json").read_text(encoding="utf-8"))
            return int(config["pretrained_cfg"]["input_size"][0])
        found = timm.get_pretrained_cfg(leaf.name.removeprefix("timm:"), allow_unregistered=True)
        return found.input_size[0] if found is not None else 3
    # an unknown tag of timm is a RuntimeError; `create` gives the reasons
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError, zoo.NotAvailable):
        return 3


def _adapted(made: Any, channels: int) -> None:
    """Describes images of another number of channels in a model's cfg: they have the mean of timm's statistics."""
    config = made.pretrained_cfg  # of this model alone: timm copies it
    if config["input_size"][0] == channels:
        return
    config["input_size"] = (channels, *config["input_size"][1:])
    for name in ("mean", "std"):
        config[name] = (sum(config[name]) / len(config[name]),) * channels


def _single(leaf: Leaf, what: str, **arguments: Any) -> Any:
    check_scheme(leaf)
    if leaf == Leaf("pixels"):
        raise ValueError("pixels are no model: they can be evaluated alone, but not be wrapped or trained")
    known_as = hub.timm_name(leaf.name)  # raises NotAvailable, whose message names the ways out
    read, failed = not leaf.untrained and arguments.get("device") != "meta", f"{what} {str(leaf)!r} can't be loaded"
    saved = zoo.exported(leaf.name)
    if saved and (module := own_networks.module_of_saved(saved)):
        failed += f" with the code that {module} has now"
    try:
        with refusing(failed):
            made = hub.create(known_as, pretrained=read, **arguments)
    except OSError as error:
        raise ValueError(f"{failed}: {one_line(error)}") from error
    if "in_chans" in arguments:
        _adapted(made, arguments["in_chans"])
    return made


def _wrapped(model: Model, what: str, arguments: dict[str, Any]) -> Any:
    if isinstance(model, Leaf):
        return _single(model, what, num_classes=0, **arguments)
    backbones = [_wrapped(inner, what, arguments) for inner in model.models]
    objective = objective_of(model.models[0]) if len(backbones) == 1 else None
    return wrappers.build(model.wrapper, backbones, _policy(backbones, objective), objective, **model.settings)


def _policy(backbones: list[Any], objective: Objective | None) -> Policy:
    """Returns the policy of the objective, else that of a single wrapper, else the default one."""
    if objective is not None:
        return objective.policy
    if len(backbones) == 1 and isinstance(backbones[0], wrappers.Wrapper):
        return backbones[0].policy
    return of_config(timm.data.resolve_model_data_config(backbones[0]))
