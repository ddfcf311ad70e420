"""The learning rate as a function of the step, and the optimiser of a recipe."""

import math

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from .config import OptimizerConfig


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear to `peak` over the first `warmup` steps, then a half cosine to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def build_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser by name over a module's parameters. Raises ValueError for an unknown name."""
    known = [str(name) for name in list_optimizers()]
    if config.name not in known:
        raise ValueError(f"optimizer.name is {config.name!r}; known: {', '.join(known)}")
    return create_optimizer_v2(
        module,
        opt=config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        filter_bias_and_bn=not config.decay_norms,
    )
