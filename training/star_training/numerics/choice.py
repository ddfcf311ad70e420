"""Chooses a precision for a training: first by the hardware, then by a check of gradients and, on a CPU, timed steps.

"no" stands for float32, as in the settings.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from star_catalog.reading import one_line

from . import processor
from .precision import DTYPES, untouched, wrong_layers

IMAGES = 64  # of a trial's batch at most, because more take longer and yield nearly the same ratio
_MARGIN = 1.05  # how much faster than float32 a reduced precision must be, because timings are noisy
_ROUNDS = 3  # of timed steps, after a first one
_SLOW = 10.0  # seconds; if the first steps take longer, one round of timed steps must do
_TENSOR_CORES = 7  # major compute capability of the first GPUs that compute faster in float16, Volta's

Trial = Callable[[int], Callable[[], Tensor]]  # number of images -> function that computes the loss of such a batch


class Choice(NamedTuple):
    """A precision and the reason for it, e.g. "12.3 images/s against 9.8 in float32"."""

    precision: str
    why: str


def suggested(device: torch.device, known: Sequence[str]) -> Choice:
    """Returns the precision among `known` that should be fastest by the hardware alone."""
    if device.type == "cpu":
        if processor.has_bf16():
            return Choice("bf16", "this CPU has bf16 instructions")
        return Choice("no", "this CPU has no bf16 instructions")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16", "supported by the GPU")
        if "fp16" in known and torch.cuda.get_device_capability(device)[0] >= _TENSOR_CORES:
            return Choice("fp16", "the GPU has no bf16")
    return Choice("no", f"nothing faster is known for this {device.type}")


def emulated(precision: str, device: torch.device) -> str:
    """Returns a warning if this CPU has no instructions for a precision that the settings fix, else ""."""
    if precision != "bf16" or device.type != "cpu" or processor.has_bf16():
        return ""
    return "this CPU has no bf16 instructions: emulated here, slower than float32; --set precision=no is faster"


def enough(module: nn.Module, trial: Trial, precision: str, few: int, most: int) -> int:
    """Returns the least number of images whose loss can be computed in training: `few`, or twice as many, and so on.

    An objective may select one of a few images, and batch norm refuses a single value per channel. From `most` on, the
    number of images of a step, nothing is tried. Buffers, modes and random states are left unchanged.
    """
    device = next(module.parameters()).device
    while few < most:
        with untouched(module, device), torch.no_grad(), torch.autocast(device.type, DTYPES[precision]):
            module.train()
            try:
                with contextlib.suppress(RuntimeError):  # of another cause, and raised again by what follows
                    trial(few)()
                return few
            except ValueError:  # raised by batch norm
                few = min(2 * few, most)
    return few


def tried(module: nn.Module, trial: Trial, suggestion: Choice, images: int, few: int) -> Choice:
    """Returns a suggested reduced precision if it computes correct gradients and, on a CPU, is faster; else "no".

    The gradients of each layer are checked on `few` images, and steps are timed on batches of `images`. Weights,
    buffers, modes and random states are left unchanged. A module that can't be computed in it gets "no".
    """
    precision = suggestion.precision
    try:
        if wrong := wrong_layers(module, trial(few), precision):
            return Choice("no", f"{precision} gradients of {wrong[0].name} are wrong on this device")
        if next(module.parameters()).device.type != "cpu":
            return suggestion
        return faster(step_seconds(module, trial(images), precision), precision, images)
    except RuntimeError as error:  # e.g. an operation that torch doesn't have in this precision
        return Choice("no", f"{precision} failed: {one_line(error)}")


def faster(seconds: Mapping[str, float], precision: str, images: int) -> Choice:
    """Returns `precision` if its step takes less time than that of "no" by a clear margin, else "no"."""
    speeds = {name: f"{images / taken:.3g}" for name, taken in seconds.items()}
    if seconds["no"] > _MARGIN * seconds[precision]:
        return Choice(precision, f"{speeds[precision]} images/s against {speeds['no']} in float32")
    return Choice("no", f"{speeds['no']} images/s against {speeds[precision]} in {precision}")


def step_seconds(module: nn.Module, loss: Callable[[], Tensor], precision: str) -> dict[str, float]:
    """Returns the seconds of a forward and backward pass in "no" and in `precision`: the least of a few, in turns.

    torch.compile has no part in it. Weights, buffers, modes and random states are left unchanged.
    """
    device = next(module.parameters()).device
    with untouched(module, device):
        module.train()
        first = {name: _step(module, loss, device, name) for name in ("no", precision)}
        rounds = _ROUNDS if sum(first.values()) < _SLOW else 1
        timed = [{name: _step(module, loss, device, name) for name in first} for _ in range(rounds)]
    return {name: min(found[name] for found in timed) for name in first}


def _step(module: nn.Module, loss: Callable[[], Tensor], device: torch.device, precision: str) -> float:
    """Returns the seconds of one forward and backward pass on a CPU."""
    start = time.perf_counter()
    with torch.autocast(device.type, DTYPES.get(precision, torch.bfloat16), enabled=precision in DTYPES):
        value = loss()
    value.backward()
    taken = time.perf_counter() - start
    module.zero_grad()
    return max(taken, 1e-9)  # the clock may be set back
