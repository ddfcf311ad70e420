"""The one module that is trained: backbone and objective, made from a recipe.

Letters: B images, V views of an image, S view size, P augmentation parameters.
"""

import difflib
import math
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from star_zoo import Objective, Policy, objectives

from ..models.resolve import saved_objective, timm_name
from .recipe import Recipe
from .view_norms import ViewNorms


class Pretrainer(nn.Module):
    """Backbone + objective as one module, so that one forward is all that a wrapper sees."""

    def __init__(self, backbone: nn.Module, objective: Objective, channels_last: bool = True):
        super().__init__()
        self.backbone = backbone
        self.use_layout(channels_last)
        self.objective = objective
        self._by_view = ViewNorms(self.backbone)

    def use_layout(self, channels_last: bool) -> None:
        """Lays out weights and views with channels last in memory, or contiguously."""
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)

    def synchronise_norms(self) -> None:
        """Makes batch norm see the images of all processes; in place, and on CUDA only, for it has no CPU kernel."""
        convert_sync_batchnorm(self)
        self._by_view = ViewNorms(self.backbone)

    def forward(self, images: Tensor, params: Tensor) -> dict[str, Tensor]:
        """(B, V, 3, S, S) uint8, (B, V, P) raw -> {"loss": ..., and the objective's terms, of which it is the sum}."""
        # one pass, in which batch norm sees each view on its own as in the released code's pass for each view
        count = images.shape[1]
        features = self._by_view(self.views(images, params), count)
        terms = self.objective(list(features.chunk(count)), list(params.unbind(1)))
        return {"loss": objectives.total(terms), **terms}

    @torch.no_grad()
    def views(self, images: Tensor, params: Tensor) -> Tensor:
        """Augments all views at once: (B, V, 3, S, S) uint8, (B, V, P) -> (V*B, 3, S, S), normalised, by view."""
        by_view = images.transpose(0, 1)
        with torch.autocast(images.device.type, enabled=False):  # params carry more digits than bfloat16 keeps
            x = self.objective.policy.apply(by_view.flatten(0, 1), params.transpose(0, 1).flatten(0, 1))
        return x.contiguous(memory_format=self.memory_format)


def build(recipe: Recipe) -> tuple[Pretrainer, list[str]]:
    """A recipe's module, from its `init_from` where it has one, and lines that say what was taken from there.

    Raises ValueError for names or settings that timm, the objective or the start don't know.
    """
    backbone = build_backbone(recipe)
    width = backbone.head_hidden_size  # what comes out: a MobileNet's num_features is what its last layer takes
    try:
        objective = objectives.build(recipe.objective, width, recipe.policy, **recipe.objective_args)
    except (RuntimeError, TypeError) as error:  # what settings of a wrong kind end in
        raise ValueError(f"objective_args {recipe.objective_args} don't fit: {one_line(error)}") from error
    notes = _init(backbone, objective, recipe) if recipe.init_from else []
    return Pretrainer(backbone, objective, recipe.channels_last), notes


def build_backbone(recipe: Recipe) -> Any:
    """The recipe's timm model without classifier; its cfg tells the size and pixel statistics of the pretraining."""
    if not timm.is_model(recipe.backbone):
        near = difflib.get_close_matches(recipe.backbone, timm.list_models(), 3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"backbone {recipe.backbone!r} is no timm model; {hint}timm.list_models() lists all")
    try:
        overlay = _overlay(recipe.policy, timm.get_pretrained_cfg(recipe.backbone))
        backbone: Any = timm.create_model(
            recipe.backbone, pretrained=False, num_classes=0, pretrained_cfg_overlay=overlay, **recipe.backbone_args
        )
        backbone.set_grad_checkpointing(recipe.grad_checkpointing)
        return backbone
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        told = f"backbone {recipe.backbone!r} can't be built with backbone_args {recipe.backbone_args}"
        raise ValueError(f"{told}: {one_line(error)}") from error


def _overlay(policy: Policy, base: Any) -> dict[str, Any]:
    """What a backbone's cfg says of the pretraining instead of timm's own weights; `base` is timm's cfg, if any."""
    overlay: dict[str, Any] = {
        "input_size": (3, policy.size, policy.size),
        "mean": policy.mean,
        "std": policy.std,
        "crop_pct": 1.0,  # the base view is the largest centred square
        "num_classes": 0,
        **dict.fromkeys(("tag", "license", "origin_url", "paper_ids", "paper_name", "notes", "description")),
    }
    if base is not None and base.pool_size is not None:
        reduction = base.input_size[-1] / base.pool_size[-1]
        overlay["pool_size"] = (math.ceil(policy.size / reduction),) * 2
    return overlay


def one_line(error: Exception) -> str:
    """What an error says, on one line and not too long."""
    return " ".join(str(error).split())[:300]


def _init(backbone: Any, objective: Objective, recipe: Recipe) -> list[str]:
    """Loads the start of a continued pretraining into a backbone and, where they fit, heads."""
    assert recipe.init_from is not None
    name = timm_name(recipe.init_from)
    size = {"input_size": backbone.pretrained_cfg["input_size"]}  # timm resamples the positions of a transformer
    try:
        start = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay=size, **recipe.backbone_args
        )
    except (AssertionError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"--init-from {recipe.init_from!r} can't be loaded: {one_line(error)}") from error
    try:
        backbone.load_state_dict(start.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"--init-from {recipe.init_from!r} does not fit the backbone {recipe.backbone!r}; "
            f"choose its own with --set backbone=NAME: {one_line(error)}"
        ) from error
    notes = [f"backbone from {recipe.init_from}"]
    if saved := saved_objective(recipe.init_from):
        notes.append(_init_heads(objective, saved, recipe.init_from))
    return notes


def _init_heads(objective: Objective, saved: Objective, name: str) -> str:
    if saved.config["objective"] != objective.config["objective"]:
        return f"fresh heads: those in {name} are of {saved.config['objective']}"
    if saved.policy.fields != objective.policy.fields:
        return f"fresh heads: those in {name} know the parameters {', '.join(saved.policy.fields)}"
    ours, theirs = ({name: t.shape for name, t in o.state_dict().items()} for o in (objective, saved))
    if ours != theirs:  # compared first, for load_state_dict takes what fits before it raises
        return f"fresh heads: those in {name} have other sizes"
    objective.load_state_dict(saved.state_dict())
    return f"heads from {name}"
