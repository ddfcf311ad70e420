"""Bounds on the memory and time that a file or a setting may ask for, checked before anything is allocated for it.

A config.json may state any number, e.g. a billion layers. Therefore its numbers are bounded first, and the model is
built on the meta device, which takes no memory, while the numbers in its parameters and buffers are counted. Building
stops as soon as there are more of them than the file of the weights can hold. A saved model then computes one image on
that device, because a few weights can make huge maps of a large image.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from star_catalog import machine, zoo
from star_catalog.reading import json_object

_data: Any = timm.data  # untyped
_aten: Any = torch.ops.aten

SIDE = 4096  # pixels: the largest side of a model's input
_IMAGE, _MAP = 2**28, 2**30  # numbers in one image, and in one map that is computed of it: 1 and 4 GiB in float32
_LARGEST = 2**20  # of the numbers in arguments: larger ones are no widths, depths or classes
_SPARE = 2**25  # numbers that no file holds: position tables, masks, queues of a momentum encoder
_EACH = 4096  # numbers that a parameter counts at least, which bounds how many there are
# of the initialisation of weights; PyTorch's truncated normal distribution is made of them
_RANDOM = {_aten.normal_.default, _aten.uniform_.default, _aten.erfinv_.default, _aten.clamp_.default}
_SHARE = 0.1, 10.0  # limits of crop_pct: the share of the resized image's side that the model's input takes


def check_numbers(data: Any, where: str) -> None:
    """Raises ValueError if arguments, nested as in JSON, hold a number that is not finite or above 2**20."""
    left = [(where, data)]
    while left:
        name, value = left.pop()
        if isinstance(value, dict | list | tuple):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{name}.{key}", one) for key, one in inner]
        elif isinstance(value, int | float) and not abs(value) <= _LARGEST:
            raise ValueError(f"{name} is {value}; a number here must be finite and at most {_LARGEST:,}")


def check_view(config: dict[str, Any], where: str) -> None:
    """Raises ValueError if images can't be made a model's input; `config` is timm's data config, resolved."""
    size, share = tuple(config["input_size"]), config["crop_pct"]
    if not all(isinstance(n, int) and 1 <= n <= SIDE for n in size):
        raise ValueError(f"{where} has input_size {size}; its numbers must be from 1 to {SIDE}")
    if math.prod(size) > _IMAGE:
        raise ValueError(f"{where} has input_size {size}, {math.prod(size):,} values; the maximum is {_IMAGE:,}")
    if not (isinstance(share, int | float) and _SHARE[0] <= share <= _SHARE[1]):
        raise ValueError(f"{where} has crop_pct {share}; it must be from {_SHARE[0]:g} to {_SHARE[1]:g}")
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in (*config["mean"], *config["std"])):
        raise ValueError(f"{where} has mean {config['mean']} and std {config['std']}; they must be finite numbers")
    if min(config["std"]) <= 0:
        raise ValueError(f"{where} has std {config['std']}; it must be above 0")
    try:
        _data.transforms.str_to_interp_mode(config["interpolation"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where} has interpolation {config['interpolation']!r}, which timm doesn't know") from error


@contextlib.contextmanager
def limited(most: int, where: str) -> Iterator[None]:
    """Raises ValueError when the modules built inside have parameters and buffers of more than `most` numbers.

    It is raised as soon as one too many is registered, and by any thread's modules.
    """
    count = 0

    def register(module: Any, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal count
        if tensor is not None and not is_lazy(tensor):
            count += max(tensor.numel(), _EACH)
        if count > most:
            raise ValueError(
                f"{where} declares parameters and buffers of more than {most:,} values, more than its weights file "
                "or this machine's memory holds"
            )

    handles = [
        hooks.register_module_parameter_registration_hook(register),
        hooks.register_module_buffer_registration_hook(register),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def held_by(weights: Path | None) -> int:
    """Returns the maximum number of values in a model with this weights file; `in_memory()` if there is no file.

    A value in the file takes at least one byte.
    """
    return in_memory() if weights is None else min(in_memory(), weights.stat().st_size + _SPARE)


def in_memory() -> int:
    """Returns how many float32 numbers this machine's memory holds."""
    return machine.memory() // 4


class _Unfilled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, tensors on the meta device are not initialised, which would take most of the time of a model."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _RANDOM and args[0].is_meta:
            return args[0]
        return function(*args, **(kwargs or {}))


def check_model(known_as: str, where: str, weights: Path | None = None, **arguments: Any) -> Any:
    """Returns the model that timm creates by this name and arguments, on the meta device.

    Raises ValueError for one that needs more than `held_by` or has an input larger than `SIDE`, for a saved one whose
    maps of an image are too large, and whatever timm raises. The generator of random numbers keeps its state.
    """
    check_numbers(arguments, where)
    with torch.random.fork_rng(devices=[]), limited(held_by(weights), where), _Unfilled():  # type: ignore[no-untyped-call]
        model = timm.create_model(known_as, **{**arguments, "pretrained": False, "device": "meta"})
    config = _data.resolve_model_data_config(model)
    check_view(config, where)
    if weights is not None:
        _check_maps(model, config["input_size"], where)
    return model


def _check_maps(model: Any, size: tuple[int, ...], where: str) -> None:
    """Raises ValueError if a module's output for one image has too many numbers.

    It isn't computed for a model whose maps are small even if each pixel has the widest layer's channels. A model that
    can't run on meta tensors passes.
    """
    if math.prod(size[1:]) * max((len(p) for p in model.parameters() if p.ndim), default=0) <= _MAP:
        return
    most = 0
    with torch.random.fork_rng(devices=[]), contextlib.suppress(Exception):
        most = largest_map(copy.deepcopy(model).eval(), torch.empty(1, *size, device="meta"))
    if most > _MAP:
        raise ValueError(
            f"{where} computes a map of {most:,} values for one image, more than {_MAP:,}; its input_size is "
            f"{tuple(size)}: use a smaller one"
        )


def largest_map(model: Any, images: torch.Tensor) -> int:
    """Returns the most numbers in an output of a module, in one forward pass without gradients."""
    most = 0

    def watch(module: Any, inputs: Any, output: Any) -> None:
        nonlocal most
        parts = output if isinstance(output, list | tuple) else [output]
        most = max([most, *(part.numel() for part in parts if isinstance(part, torch.Tensor))])

    handle = hooks.register_module_forward_hook(watch)
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return most


def check_config(place: Path | zoo.Repository) -> Path | None:
    """Checks the numbers of a saved model's config.json; returns the file of its weights, None if it has none.

    Raises ValueError for an invalid config.json and numbers out of bounds, and `zoo.NotAvailable` if a file can't be
    downloaded. A missing config.json is for timm to report.
    """
    with contextlib.suppress(FileNotFoundError):
        path = zoo.fetch(place, "config.json")
        check_numbers(json_object(path, "config.json").get("model_args"), f"{path}: model_args")
    return zoo.fetch_weights(place)
