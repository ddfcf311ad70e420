"""The one module that is trained: encoder and objective, made from a recipe."""

import difflib
import math
from typing import Any

import timm
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from star_zoo import Batch, Encoder, Objective, Policy, objectives

from ..errors import one_line
from ..models.create import create, refusing
from ..models.resolve import saved_objective, single
from .recipe import Recipe


class Pretrainer(nn.Module):
    """Encoder + objective as one module, so that a wrapper sees one forward."""

    def __init__(self, backbone: nn.Module, objective: Objective, channels_last: bool = True):
        super().__init__()
        self.encoder = Encoder(objective.policy, backbone)
        self.encoder.use_layout(channels_last)
        self.objective = objective

    @property
    def backbone(self) -> Any:
        """The backbone that is trained."""
        return self.encoder.backbone

    def use_layout(self, channels_last: bool) -> None:
        """Lays out weights and views with channels last in memory, or contiguously."""
        self.encoder.use_layout(channels_last)

    def synchronise_norms(self) -> None:
        """Makes batch norm see the images of all processes; in place, on CUDA only, because it has no CPU kernel."""
        convert_sync_batchnorm(self)
        self.encoder.synchronise_norms()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns {"loss": ..., and the objective's terms}; the loss is the sum of the terms."""
        terms = self.objective(batch, self.encoder)
        return {"loss": objectives.total(terms), **terms}


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
    pretrainer = Pretrainer(backbone, objective, recipe.channels_last)
    objective.attach(pretrainer.encoder)
    return pretrainer, notes


def build_backbone(recipe: Recipe) -> Any:
    """The recipe's timm model without classifier; its cfg tells the size and pixel statistics of the pretraining."""
    if not timm.is_model(recipe.backbone):
        near = difflib.get_close_matches(recipe.backbone, timm.list_models(), 3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"backbone {recipe.backbone!r} is no timm model; {hint}timm.list_models() lists all")
    with refusing(f"backbone {recipe.backbone!r} can't be built with backbone_args {recipe.backbone_args}"):
        overlay = _overlay(recipe.policy, timm.get_pretrained_cfg(recipe.backbone))
        backbone: Any = timm.create_model(
            recipe.backbone, pretrained=False, num_classes=0, pretrained_cfg_overlay=overlay, **recipe.backbone_args
        )
        backbone.set_grad_checkpointing(recipe.grad_checkpointing)
        return backbone


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


def _init(backbone: Any, objective: Objective, recipe: Recipe) -> list[str]:
    """Loads the start of a continued pretraining into a backbone and, where they fit, heads."""
    assert recipe.init_from is not None
    if single(recipe.init_from, "--init-from takes the weights of a single model; give that one").untrained:
        raise ValueError(f"--init-from {recipe.init_from!r} has no weights to start from; leave it out")
    size = {"input_size": backbone.pretrained_cfg["input_size"]}  # timm resamples the positions of a transformer
    start = create(recipe.init_from, what="--init-from", pretrained_cfg_overlay=size, **recipe.backbone_args)
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
    ours, theirs = ({name: t.shape for name, t in o.published().items()} for o in (objective, saved))
    if ours != theirs:  # compared first, because load_state_dict loads all that fits before it raises
        return f"fresh heads: those in {name} have other sizes"
    objective.load_state_dict(saved.published(), strict=False)  # queues and the like start afresh
    return f"heads from {name}"
