"""The start of a run: the weights of its backbone and its heads, from the model that `init_from` names."""

import json
from typing import Any

from star_catalog.printing import as_typed
from star_zoo import Objective, Policy

from ..models.create import create, input_channels
from ..models.lineage import beside
from ..models.resolve import saved_objective, single
from .recipe import Recipe

Shapes = dict[str, list[int]]


def check(recipe: Recipe, backbone: Any, arguments: dict[str, Any]) -> None:
    """Raises ValueError if `init_from` can't be the start of this backbone, found from shapes alone.

    `arguments` are those that the backbone was created with.
    """
    assert recipe.init_from is not None
    if single(recipe.init_from, "--init-from takes the weights of a single model; pass that one").untrained:
        raise ValueError(f"--init-from {recipe.init_from!r} has no weights to start from; leave it out")
    _check_shapes(recipe, backbone, _create(recipe, backbone, arguments, device="meta"))


def load(recipe: Recipe, backbone: Any, objective: Objective, arguments: dict[str, Any]) -> list[str]:
    """Loads `init_from` into the backbone and, if they fit, the heads; returns lines that describe the loaded parts.

    Raises ValueError as `check` does, and for weights that can't be loaded.
    """
    name = recipe.init_from
    assert name is not None
    check(recipe, backbone, arguments)
    try:
        start = _create(recipe, backbone, arguments)
    except ValueError as error:
        if isinstance(error.__cause__, RuntimeError):  # weights that don't fit the start with these backbone_args
            own = {key: value for key, value in arguments.items() if key in ("img_size", "in_chans")}
            _check_shapes(recipe, backbone, _create(recipe, backbone, own, device="meta"))
        raise
    backbone.load_state_dict(start.state_dict())
    notes = [f"backbone from {name}"]
    if saved := saved_objective(name):
        notes.append(_load_heads(objective, saved, name))
        notes += _other_views(objective, saved, name)
    else:
        notes += _other_pixels(recipe.policy, start.pretrained_cfg, name)
    return notes


def _create(recipe: Recipe, backbone: Any, arguments: dict[str, Any], **more: Any) -> Any:
    """Returns the start's backbone, for images as this run's."""
    assert recipe.init_from is not None
    # timm resamples a transformer's position embeddings, and the first layer for other channels than the start's
    size = {"input_size": (input_channels(recipe.init_from), *backbone.pretrained_cfg["input_size"][1:])}
    return create(recipe.init_from, what="--init-from", pretrained_cfg_overlay=size, **arguments, **more)


def _check_shapes(recipe: Recipe, backbone: Any, start: Any) -> None:
    """Raises ValueError, with the way out, if the tensors of two backbones differ in name or shape."""
    needs, has = _shapes(backbone.state_dict()), _shapes(start.state_dict())
    if needs == has:
        return
    assert recipe.init_from is not None
    saved, held = f"--init-from {recipe.init_from!r}", start.pretrained_cfg["architecture"]
    if held != backbone.pretrained_cfg["architecture"]:
        if recipe.init_from.partition(".")[0] == f"star_{held}":
            held = f"star_{held}"
        raise ValueError(
            f"{saved} holds a {held}, the recipe's backbone is {recipe.backbone}; pass "
            f"{as_typed('--set', f'backbone={held}')}"
        )
    given = beside(recipe.init_from, "config.json").get("model_args")
    raise ValueError(
        f"{saved} does not fit the backbone {recipe.backbone!r}: {_first_difference(has, needs)}; "
        f"--set backbone_args... must be those of the start: {json.dumps(given) if given else 'none'}"
    )


def _load_heads(objective: Objective, saved: Objective, name: str) -> str:
    """Loads the heads if they fit; returns a line that says so, or why not and how they would."""
    ours, theirs = objective.config, saved.config
    if theirs["objective"] != ours["objective"]:
        kinds = f"those of {name} are of {theirs['objective']}, this run's of {ours['objective']}"
        return f"fresh heads: {kinds}; {as_typed('--objective', theirs['objective'])} keeps them"
    here, there = objective.policy.fields, saved.policy.fields
    if here != there:
        only_here, only_there = ([f for f in a if f not in b] for a, b in ((here, there), (there, here)))
        found = [f"only {who} has {', '.join(f)}" for who, f in (("this run", only_here), (name, only_there)) if f]
        how = " and ".join(found) or "they are in another order"
        return f"fresh heads, because the parameters of the augmentations differ: {how}; {_taking(name)} keeps them"
    needs, has = _shapes(objective.published()), _shapes(saved.published())
    if needs != has:  # compared first, because load_state_dict loads all that fits before it raises
        settings = {k: v for k, v in theirs["settings"].items() if v != ours["settings"].get(k)}
        keep = " ".join(as_typed("--set", f"objective_args.{k}={_text(v)}") for k, v in settings.items())
        return f"fresh heads, because {_first_difference(has, needs)}{keep and f'; {keep} keeps them'}"
    objective.load_state_dict(saved.published(), strict=False)  # momentum copies and queues start afresh
    return f"heads from {name}"


def _other_views(objective: Objective, saved: Objective, name: str) -> list[str]:
    """Returns a line if size or pixel statistics of the views aren't those that the start was trained with."""
    pairs = {
        "pixels": (objective.policy.size, saved.policy.size),
        "mean": (list(objective.policy.mean), list(saved.policy.mean)),
        "std": (list(objective.policy.std), list(saved.policy.std)),
    }
    found = [f"{what} {here} (there {there})" for what, (here, there) in pairs.items() if here != there]
    return [f"other views than those of {name}: {', '.join(found)}; {_taking(name)} takes those"] if found else []


def _other_pixels(policy: Policy, cfg: dict[str, Any], name: str) -> list[str]:
    """Returns a line if the views are not normalised by the pixel statistics in the cfg of a start without a policy."""
    pairs = {kind: (list(getattr(policy, kind)), list(cfg.get(kind, ()))) for kind in ("mean", "std")}
    found = {k: (here, there) for k, (here, there) in pairs.items() if here != there and len(here) == len(there)}
    if not found:
        return []
    texts = ", ".join(f"{kind} {here} (there {there})" for kind, (here, there) in found.items())
    taking = " ".join(as_typed("--set", f"policy.{kind}={json.dumps(there)}") for kind, (_, there) in found.items())
    return [f"other pixel statistics than those of {name}: {texts}; {taking} takes those"]


def _taking(name: str) -> str:
    return as_typed("--set", f"policy={name}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shapes(tensors: dict[str, Any]) -> Shapes:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _first_difference(has: Shapes, needs: Shapes) -> str:
    """Returns the first tensor that differs, in words: "conv1.weight is [8, 3, 3, 3], needs [8, 1, 3, 3]"."""
    name = next(name for name in needs | has if has.get(name) != needs.get(name))
    return f"{name} is {has.get(name, 'missing')}, needs {needs.get(name, 'none')}"
