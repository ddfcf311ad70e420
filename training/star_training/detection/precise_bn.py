"""Batch norm's statistics measured anew, after training: what detectron2 calls precise BN."""

import contextlib
from collections.abc import Iterator

import accelerate
import torch
from torch import nn


@contextlib.contextmanager
def settling(module: nn.Module) -> Iterator[None]:
    """Of what passes inside, the statistics of every batch norm become the plain means, for all processes the first's.

    The running statistics lag behind weights that moved until the end.
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
