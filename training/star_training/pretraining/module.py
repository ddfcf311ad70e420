"""The trained module: encoder and objective, built from a recipe."""

import contextlib
import math
from typing import Any

import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from star_catalog.reading import one_line, refusing
from star_zoo import Batch, Encoder, Objective, Policy, bounds, hub, objectives

from ..models import fits
from ..models.lineage import OF_WEIGHTS
from . import start
from .recipe import Recipe


class Pretrainer(nn.Module):
    """Encoder and objective as one module, so that wrappers see a single forward."""

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
        """Stores weights and views in channels-last memory format, or contiguously, in momentum copies too."""
        for encoder in self._encoders():
            encoder.use_layout(channels_last)

    def synchronise_norms(self) -> None:
        """Synchronises batch norm over all processes, in place; on CUDA only, because it has no CPU kernel."""
        convert_sync_batchnorm(self)
        for encoder in self._encoders():
            encoder.synchronise_norms()

    def _encoders(self) -> list[Encoder]:
        """Returns the encoder and its copies in the objective."""
        return [module for module in self.modules() if isinstance(module, Encoder)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns {"loss": ..., and the objective's terms}; the loss is the sum of the terms."""
        terms = self.objective(batch, self.encoder)
        return {"loss": objectives.total(terms), **terms}


def build(recipe: Recipe) -> tuple[Pretrainer, list[str]]:
    """Returns a recipe's module, loaded from `init_from` if it is set, and lines that describe the loaded parts.

    Raises ValueError for names or settings that are unknown to timm, the objective or `init_from`.
    """
    recipe.check_objective()
    recipe.check_start()
    backbone = build_backbone(recipe)
    width = backbone.head_hidden_size  # output width; a MobileNet's num_features is its last layer's input width
    try:
        _check_objective(recipe, width)
        objective = objectives.build(recipe.objective, width, recipe.policy, **recipe.objective_args)
    except (RuntimeError, TypeError) as error:  # raised for settings of a wrong type
        raise ValueError(f"objective_args {recipe.objective_args} don't fit: {one_line(error)}") from error
    notes = start.load(recipe, backbone, objective, _arguments(recipe, recipe.policy.size)) if recipe.init_from else []
    pretrainer = Pretrainer(backbone, objective, bool(recipe.channels_last))
    if recipe.freeze_norms:
        pretrainer.encoder.freeze_norms()  # before the objective copies the encoder
    objective.attach(pretrainer.encoder)
    return pretrainer, notes


def _check_objective(recipe: Recipe, width: int) -> None:
    """Raises ValueError for an objective whose settings ask for more than this machine's memory."""
    bounds.check_numbers(recipe.objective_args, "objective_args")
    with contextlib.ExitStack() as trial:
        trial.enter_context(contextlib.suppress(NotImplementedError, RuntimeError))  # of modules that can't be on meta
        trial.enter_context(torch.random.fork_rng(devices=[]))
        trial.enter_context(torch.device("meta"))
        trial.enter_context(bounds.limited(bounds.in_memory(), f"objective {recipe.objective!r}"))
        objectives.build(recipe.objective, width, recipe.policy, **recipe.objective_args)


def check_backbone(recipe: Recipe) -> None:
    """Raises ValueError for a backbone that is unknown to timm, or can't train on the recipe's views or its start."""
    recipe.check_backbone()
    recipe.check_start()
    cfg = timm.get_pretrained_cfg(recipe.backbone)
    fits.check(
        lambda size: build_backbone(recipe, size, "meta"),
        recipe.policy.size,
        f"backbone {recipe.backbone!r}",
        "policy.augmentations.0.size",
        own=None if cfg is None else cfg.input_size[-1],
    )
    if recipe.init_from:
        start.check(recipe, build_backbone(recipe, device="meta"), _arguments(recipe, recipe.policy.size))


def build_backbone(recipe: Recipe, size: int | None = None, device: str | None = None) -> Any:
    """Returns the recipe's timm model without classifier; its cfg holds the views' size and pixel statistics.

    `size` replaces the size of the recipe's views. Raises ValueError for arguments that the model doesn't take.
    """
    hub.check_name(recipe.backbone)
    policy = recipe.policy if size is None else recipe.policy.resized(size)
    with refusing(f"backbone {recipe.backbone!r} can't be built with backbone_args {recipe.backbone_args}"):
        overlay = _overlay(policy, recipe.channels, timm.get_pretrained_cfg(recipe.backbone))
        backbone = hub.create(
            recipe.backbone,
            pretrained=False,
            num_classes=0,
            device=device,
            pretrained_cfg_overlay=overlay,
            **_arguments(recipe, policy.size),
        )
        for name in ("pretrained_cfg", "num_features", "head_hidden_size"):
            if not hasattr(backbone, name):
                raise ValueError(f"the network has no {name}; set it, see help(star_zoo.backbone.Backbone)")
        backbone.pretrained_cfg["tag"] = None  # only now, because some networks are built according to their tag
        if recipe.grad_checkpointing:
            backbone.set_grad_checkpointing()
        return backbone


def _arguments(recipe: Recipe, size: int) -> dict[str, Any]:
    """Returns `backbone_args`, with the size of the views if the network is made for one size, as most transformers."""
    cfg = timm.get_pretrained_cfg(recipe.backbone)
    return ({"img_size": size} if cfg is not None and cfg.fixed_input_size else {}) | recipe.backbone_args


def _overlay(policy: Policy, channels: int, base: Any) -> dict[str, Any]:
    """Returns cfg entries that describe the pretraining, not timm's weights; `base` is timm's cfg, if any.

    Pixel statistics that are still to be estimated are those of pixels that aren't normalised.
    """
    overlay: dict[str, Any] = {
        "input_size": (channels, policy.size, policy.size),
        "mean": policy.mean or (0.0,) * channels,
        "std": policy.std or (1.0,) * channels,
        "crop_pct": 1.0,  # the base view is the largest centred square
        "crop_mode": "center",
        "num_classes": 0,
        **{name: None for name in OF_WEIGHTS if name != "tag"},
    }
    if base is not None and base.pool_size is not None:
        reduction = base.input_size[-1] / base.pool_size[-1]
        overlay["pool_size"] = (math.ceil(policy.size / reduction),) * 2
    return overlay
