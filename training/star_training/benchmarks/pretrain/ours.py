"""Our full step, from data to optimiser: a real run, driven step by step. Letters: B images, V views, P parameters."""

import statistics
from types import TracebackType
from typing import Any

from torch import Tensor

from ...pretraining.run import Run
from .clock import now, time_parts

_CHECKPOINTS = 3


class Ours:
    """Runs the steps of a `Run` on demand. Only this file and clock.py touch the internals of its loop."""

    name = "ours"

    def __init__(self, run: Run):
        self.run = run
        self.batches = run.batches(range(run.step, run.steps))
        run.module.train()
        run._mark = now(run.accelerator.device)

    def __enter__(self) -> "Ours":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.batches.close()
        self.run.logbook.close()

    def seconds(self, steps: int) -> float:
        """Returns the seconds of some steps, including the log entries that are due between them."""
        device = self.run.accelerator.device
        start = now(device)
        for _ in range(steps):
            self.step()
        return now(device) - start

    def step(self) -> Tensor:
        """Runs one step and the log entry that is due after it, and returns the step's loss on the device."""
        run = self.run
        run._train_step(self.batches)
        loss = run._window[-1]["loss"]
        if run.step % run.recipe.run.log_every == 0:
            run._log()
        return loss

    def parts(self, steps: int) -> dict[str, float]:
        """Returns the mean seconds of each part of a step."""
        return time_parts(self.run, self.batches, steps)

    def checkpoint(self) -> dict[str, float]:
        """Returns the cost of a checkpoint: seconds of the stall, and of a step during its writing and without it."""
        run, device = self.run, self.run.accelerator.device
        run._checkpoint(wait=True)  # allocates the memory that later checkpoints reuse
        found: list[dict[str, float]] = []
        for _ in range(_CHECKPOINTS):
            without = self.seconds(1)
            start = now(device)
            run._checkpoint(wait=False)
            stall = now(device) - start
            beside = self.seconds(1)
            run._writer.finish()
            found.append({"stall": stall, "step beside": beside, "step": without})
        return {name: statistics.median(each[name] for each in found) for name in found[0]}

    def loss(self, features: list[Tensor], params: list[Tensor]) -> Any:
        """Returns the objective's terms for V features (B, D) and raw params (B, P), in the run's precision."""
        with self.run.accelerator.autocast():
            objective: Any = self.run.pretrainer.objective
            return objective.terms(features, params)
