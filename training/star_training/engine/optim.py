"""The learning rate schedule, and the optimiser of a recipe."""

import json
import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from star_catalog.names import not_found

from ..settings.common import OptimizerConfig
from .saving.checkpoint import pack_optimizer

_FUSED = ("adam", "adamw", "momentum", "nesterov", "sgd")  # torch's optimisers with a fused kernel


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Returns the learning rate: linear to `peak` over the first `warmup` steps, then a half cosine to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def build_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """Builds one of timm's optimisers by name. Raises ValueError if it is unknown or can't be built here."""
    known = [str(name) for name in list_optimizers()]
    if config.name not in known:
        raise ValueError(not_found("optimizer.name", config.name, known))
    fused: Any = {"fused": True} if config.name in _FUSED else {}
    try:
        return create_optimizer_v2(
            module,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not config.decay_norms,
            **fused,
        )
    except (AssertionError, ImportError) as error:  # some need CUDA or an additional package
        raise ValueError(f"optimizer.name is {config.name!r}, which can't be built here: {error}") from error


def check_optimizer(config: OptimizerConfig, device: torch.device) -> None:
    """Runs one step. Raises ValueError if the optimiser fails here, or if a checkpoint can't hold its state."""
    toy = nn.Linear(2, 2, device=device)
    optimizer = build_optimizer(config, toy)
    try:
        toy(torch.ones(1, 2, device=device)).sum().backward()
        optimizer.step()
        json.dumps(pack_optimizer(optimizer.state_dict())[1])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"optimizer.name is {config.name!r}, which can't be used here: {error}") from error
