"""Wall-clock seconds, synchronised with the device, and the seconds of each part of our step."""

import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ...pretraining.run import Run

PARTS = (
    "data",
    "augmentation",
    "backbone forward",
    "heads and loss forward",
    "heads and loss backward",
    "backbone backward",
    "optimiser",
)


def now(device: torch.device) -> float:
    """Returns the time in seconds, after the device has finished all queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


class Marks:
    """The times at which the parts of one step ended; the first mark of a part counts."""

    def __init__(self, device: torch.device):
        self._device, self._ends = device, dict[str, float]()

    def __call__(self, part: str) -> None:
        if part not in self._ends:
            self._ends[part] = now(self._device)

    def seconds(self, start: float) -> dict[str, float]:
        """Returns the seconds of each part of a step that began at `start`, in order; their sum is the whole step."""
        ends = [start, *(self._ends[part] for part in PARTS)]
        return {part: ends[k + 1] - ends[k] for k, part in enumerate(PARTS)}


def time_parts(run: Run, batches: Generator[Any, None, None], steps: int) -> dict[str, float]:
    """Returns the mean seconds of each part over some steps of a run. The measurement does not change the run.

    The backward pass of the heads ends when a gradient first reaches the features, because autograd runs in reverse
    order, and the heads of all views are computed after the backbones of all views.
    """
    totals = dict.fromkeys(PARTS, 0.0)
    for _ in range(steps):
        marks = Marks(run.accelerator.device)
        with ExitStack() as hooks:
            for handle in _watch(run, marks):
                hooks.callback(handle.remove)
            start = now(run.accelerator.device)
            run._train_step(_marked(batches, marks))
            marks("optimiser")
        for part, seconds in marks.seconds(start).items():
            totals[part] += seconds / steps
    return totals


def _marked(batches: Generator[Any, None, None], marks: Marks) -> Generator[Any, None, None]:
    batch = next(batches)
    marks("data")
    yield batch


def _watch(run: Run, marks: Marks) -> list[Any]:
    """Registers hooks that mark the end of each part, and returns their handles."""

    def features_arrive(encoder: Any, images: Any, found: list[Tensor]) -> None:
        marks("backbone forward")
        for features in found:
            features.register_hook(lambda gradient: marks("heads and loss backward"))

    pretrainer = run.pretrainer
    return [
        pretrainer.encoder.register_forward_pre_hook(lambda *_: marks("augmentation")),
        pretrainer.encoder.register_forward_hook(features_arrive),
        pretrainer.objective.register_forward_hook(lambda *_: marks("heads and loss forward")),
        run.optimizer.optimizer.register_step_pre_hook(lambda *_: marks("backbone backward")),
    ]
