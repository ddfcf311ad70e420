"""Bytes: what autograd keeps for the backward pass, and the most that the process held."""

import resource
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(compute: Callable[[], Any], but: Iterable[Tensor]) -> int:
    """Bytes that stay in memory for the backward of what `compute` gives: each storage once and whole.

    Those of the tensors `but`, parameters and buffers, are not counted: they are there anyway. Copies of weights in
    another precision, which autocast makes, are.
    """
    there = {tensor.untyped_storage().data_ptr() for tensor in but}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = compute()  # held until the sum is made: a freed address would be given out again
    total = sum(size for place, size in kept.items() if place not in there)
    del graph
    return total


def peak_resident() -> int:
    """The most bytes of memory that this process held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS tells bytes, Linux KiB
