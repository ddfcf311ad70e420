"""The parts of a training that its kind defines: batches, losses, learning rate, evaluation, outcome."""

import abc
from collections.abc import Generator, Sequence
from typing import Any

from torch import Tensor

from ..settings.common import PRECISIONS
from .divergence import Cause


class Hooks(abc.ABC):
    """The methods and numbers that a subclass of `trainer.Loop` defines; those with a body are optional."""

    precisions: Sequence[str] = PRECISIONS  # that may be chosen
    accumulate = 1  # batches per step, whose gradients are averaged
    batch_size = 1  # images per batch, over all processes
    clip: float | None = None  # maximum gradient norm
    eval_every = 0  # epochs between calls of `evaluate`; 0: never

    @abc.abstractmethod
    def batches(self, steps: range) -> Generator[Any, None, None]:
        """Yields the batches of the given steps, `accumulate` per step."""

    @abc.abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Returns a batch's scalar "loss" as the first entry, then terms to log."""

    @abc.abstractmethod
    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of step `step`, counted from 0."""

    @abc.abstractmethod
    def fingerprints(self) -> dict[str, tuple[str, str]]:
        """Returns the fingerprints that must match on resume: name in the checkpoint -> fingerprint, description."""

    @abc.abstractmethod
    def outcome(self) -> Any:
        """Returns the results of `train` from the files that a finished run writes last; None if any is missing."""

    @property
    @abc.abstractmethod
    def cause(self) -> Cause:
        """What may be the cause of a loss that is not finite, as the names of settings to change."""

    def try_export(self) -> None:
        """Called before the first step. Raises ValueError or OSError if the model can't be exported after the last."""

    def updated(self) -> None:
        """Called after each update of the weights."""

    def evaluate(self) -> None:
        """Evaluates the current weights and logs the results. Every process calls it."""

    def check_data(self) -> None:
        """Warns of bad images, and raises DataError if there are too many."""

    def more_state(self) -> dict[str, Tensor]:
        """Returns the tensors to checkpoint beside module, optimiser and random states."""
        return {}

    def take_more_state(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors of `more_state`."""
