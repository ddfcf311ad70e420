"""Seconds, also where a device computes on its own, and where those of a step of ours go."""

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
    """Seconds on a clock, after all that the device was told to do is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


class Marks:
    """When each part of one step ended. What is marked twice ended the first time."""

    def __init__(self, device: torch.device):
        self._device, self._ends = device, dict[str, float]()

    def __call__(self, part: str) -> None:
        if part not in self._ends:
            self._ends[part] = now(self._device)

    def seconds(self, start: float) -> dict[str, float]:
        """What each part took of a step that began at `start`, in their order; together they are the whole step."""
        ends = [start, *(self._ends[part] for part in PARTS)]
        return {part: ends[k + 1] - ends[k] for k, part in enumerate(PARTS)}


def time_parts(run: Run, batches: Generator[Any, None, None], steps: int) -> dict[str, float]:
    """Mean seconds of each part over some steps of a run, which goes on as if nothing had been measured.

    The backward of the heads ends when a gradient first reaches the features: autograd goes back through what was
    computed last, and all views' heads come after all views' backbones.
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
    """Hooks that mark the parts' ends; the handles to remove them by."""

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
