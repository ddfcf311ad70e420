"""Precise batch norm: re-estimates batch norm statistics after training, as detectron2 does."""

import contextlib
from collections.abc import Iterator

import accelerate
import torch
from torch import nn


@contextlib.contextmanager
def settling(module: nn.Module) -> Iterator[None]:
    """Re-estimates batch norm statistics as plain averages over the batches run inside.

    On exit, it broadcasts the statistics of rank 0. Running statistics would lag behind weights that change until
    the last step.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
    module.train()
    with torch.no_grad():
        yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            accelerate.utils.broadcast(statistic)
