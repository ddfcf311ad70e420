"""Compares gradients in reduced precision with those in float32, before the first step.

The forward and backward pass of each layer runs alone in both precisions, on random inputs with the shapes of a small
batch, so only rounding differs. The whole network can't be compared, because batch norm over a few images amplifies
rounding errors.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .allocator import filled_memory

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Relative differences. Correct convolutions and linear layers reach 0.01. Gradients of vectors are sums over all images
# and positions; those of layer norm, which torch sums in reduced precision, reach 0.17 on maps of 40x40.
_TOLERANCE, _OF_VECTORS = 0.1, 0.5
_REPEATS = 2  # because memory that was never written may hold the correct numbers by chance


class Wrong(NamedTuple):
    """A layer whose output or gradients differ from float32's."""

    name: str
    kind: str  # with its settings
    shape: list[int]  # of its input
    difference: float  # the largest of a tensor, relative to it


class _Call(NamedTuple):
    name: str
    layer: nn.Module
    args: Any
    kwargs: Any


def wrong_layers(module: nn.Module, loss: Callable[[], Tensor], precision: str) -> list[Wrong]:
    """Returns the layers of a module whose gradients in `precision` differ from float32's by more than rounding.

    `loss` computes the loss of a small batch. Weights, running statistics and random states are left unchanged.
    """
    device, dtype = next(module.parameters()).device, DTYPES[precision]
    with untouched(module, device), filled_memory():
        module.train()
        with torch.autocast(device.type, dtype):
            calls = _calls(module, loss)
        return [wrong for call in calls if (wrong := _compare(call, device, dtype))]


def check(module: nn.Module, loss: Callable[[], Tensor], precision: str) -> None:
    """Raises ValueError if layers of a module compute wrong gradients in `precision`; "no" means float32.

    `loss` computes the loss of a small batch.
    """
    if precision != "no" and (wrong := wrong_layers(module, loss, precision)):
        raise ValueError(describe(wrong, precision, next(module.parameters()).device.type))


def describe(wrong: list[Wrong], precision: str, device: str) -> str:
    """Returns an error message of one line."""
    name, kind, shape, difference = wrong[0]
    others = f" (and {len(wrong) - 1} other layers)" if len(wrong) > 1 else ""
    problem = (
        f"{precision} gradients of {name}, {kind} on {shape}, differ from float32's by {difference:.3g} of their size"
    )
    known, larger = "", ""
    if kind.startswith("Conv2d") and "stride=(1, 1)" not in kind and shape[2:] == [1, 1] and device == "cpu":
        known = " (a known fault of torch's strided convolutions on maps of 1x1)"
        larger = " or larger images"
    return f"{problem}{others} on this {device.upper()}{known}; use --set precision=no{larger}"


@contextlib.contextmanager
def untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Restores buffers, modes and torch's random states at exit."""
    modes = {m: m.training for m in module.modules()}
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, before in buffers.items():
                buffer.data.copy_(before)
            for m, mode in modes.items():
                m.training = mode


def _calls(module: nn.Module, loss: Callable[[], Tensor]) -> list[_Call]:
    """Records one call of each kind of layer while the loss runs; layers are the innermost modules with parameters."""
    calls: dict[tuple[Any, ...], _Call] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any, kwargs: Any) -> None:
            inputs = [(x.shape, x.dtype, x.stride()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            trained = [p.requires_grad for p in layer.parameters()]  # not those of a momentum copy, which may run first
            key = (type(layer), str(layer), *trained, *inputs)
            if key not in calls:
                calls[key] = _Call(name, layer, *tree_map(_random, (args, kwargs)))

        return hook

    hooks = [
        layer.register_forward_pre_hook(remember(name), with_kwargs=True)
        for name, layer in module.named_modules()
        if _parametrised(layer) and not any(map(_parametrised, layer.children()))
    ]
    try:
        with torch.no_grad():
            loss()
    finally:
        for hook in hooks:
            hook.remove()
    return list(calls.values())


def _parametrised(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _random(value: Any) -> Any:
    """Returns normal random numbers of the same shape, because a small batch may have too little variance."""
    if not isinstance(value, Tensor):
        return value
    return torch.randn_like(value) if value.is_floating_point() else value.clone()


def _compare(call: _Call, device: torch.device, dtype: torch.dtype) -> Wrong | None:
    expected = _results(call, device, None)
    differences = [_difference(_results(call, device, dtype), expected) for _ in range(_REPEATS)]
    if not (wrong := [d for d in differences if d]):
        return None
    inputs = [x for x in tree_leaves((call.args, call.kwargs)) if isinstance(x, Tensor)]
    return Wrong(
        call.name, " ".join(str(call.layer).split())[:120], list(inputs[0].shape) if inputs else [], max(wrong)
    )


def _results(call: _Call, device: torch.device, dtype: torch.dtype | None) -> list[Tensor]:
    """Returns outputs, then gradients of inputs and weights, of one layer, in float32 if `dtype` is None."""

    def prepared(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return (value.clone() if dtype else value.float().clone()).requires_grad_()

    torch.manual_seed(0)  # for layers that draw random numbers, and for the gradients of the outputs
    given = tree_map(prepared, (call.args, call.kwargs))
    with torch.enable_grad(), torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        made = tree_leaves(call.layer(*given[0], **given[1]))
    outputs = [y for y in made if isinstance(y, Tensor) and y.requires_grad]
    if not outputs:
        return []
    gradients = [torch.randn(y.shape, device=device).to(y.dtype) for y in outputs]
    leaves = [x for x in tree_leaves(given) if isinstance(x, Tensor) and x.requires_grad]
    leaves += [p for p in call.layer.parameters() if p.requires_grad]
    found = torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)
    return [y.detach() for y in outputs] + [g for g in found if g is not None]


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Returns the largest relative difference above the tolerances, infinity for values that are not finite, else 0."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        distance, size = float((a.double() - b.double()).norm()), float(b.double().norm())
        tolerance = _OF_VECTORS if b.ndim < 2 else _TOLERANCE
        if not distance <= tolerance * size:  # as with NaN
            relative = distance / max(size, 1e-30)
            worst = max(worst, relative if math.isfinite(relative) else math.inf)
    return worst
