"""One of the compared trainings in its own process: it runs steps on demand, and records their views and memory.

Letters: B images, S view size.
"""

import abc
import multiprocessing
from typing import Any

import torch
from torch import Tensor

from ...engine.environment import peak_memory
from ..pretrain.clock import now
from .resident import peak, proportional


class Side(abc.ABC):
    """A training from JPEGs to optimiser; a subclass defines `step`, which records its views in `views`."""

    name: str
    device: torch.device
    views: list[list[int]]  # the shapes of the last step's images, one per pass through the loss
    parameters: int  # trained numbers

    def __init__(self) -> None:
        self._workers = 0  # bytes, the most so far

    @abc.abstractmethod
    def step(self) -> Tensor:
        """Runs one step from data to optimiser, and returns its loss on the device."""

    def seconds(self, steps: int) -> float:
        """Returns the seconds of some steps. Raises ValueError if the last loss is not finite."""
        start = now(self.device)
        for _ in range(steps):
            loss = self.step()
        passed = now(self.device) - start
        if not loss.isfinite():
            raise ValueError(f"the loss of {self.name} is {float(loss)}; nothing useful was measured")
        self._workers = max(self._workers, sum(proportional(p.pid) for p in multiprocessing.active_children() if p.pid))
        return passed

    @property
    def memory(self) -> dict[str, int]:
        """The largest memory so far in bytes: resident, with that of the workers, and of tensors on an accelerator."""
        on_device = 0 if self.device.type == "cpu" else peak_memory(self.device)
        return {"resident": peak() + self._workers, "workers": self._workers, "device": on_device}


def shapes(views: list[Tensor]) -> list[list[int]]:
    """Returns the shapes of views as plain data."""
    return [list(view.shape) for view in views]


def trained(module: Any) -> int:
    """Returns the number of trained numbers of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def training_device() -> torch.device:
    """Returns the accelerator if there is one, else the CPU, as our runs choose it."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
