"""The bytes of the tensors that autograd saves for the backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(compute: Callable[[], Any], but: Iterable[Tensor]) -> int:
    """Returns the bytes that autograd saves for the backward pass of `compute`; each storage counts once, as a whole.

    The tensors `but`, i.e. parameters and buffers, do not count, because they exist anyway. The copies of weights in
    another precision that autocast makes do count.
    """
    there = {tensor.untyped_storage().data_ptr() for tensor in but}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = compute()  # kept until the sum is computed, because a freed address would be reused
    total = sum(size for place, size in kept.items() if place not in there)
    del graph
    return total
