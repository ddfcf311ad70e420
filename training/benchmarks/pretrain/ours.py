"""Our full step, from data to optimiser: a real run, driven step by step. Letters: B images, V views, P parameters."""

from types import TracebackType
from typing import Any

from torch import Tensor

from ...pretrain import Run
from .clock import now, time_parts


class Ours:
    """The steps of a `Run` whenever they are asked for; all that touches the run's own loop is here and in clock.py."""

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
        """What some steps take, the log entries that are due between them included."""
        run, device = self.run, self.run.accelerator.device
        start = now(device)
        for _ in range(steps):
            run._train_step(self.batches)
            if run.step % run.recipe.run.log_every == 0:
                run._log()
        return now(device) - start

    def parts(self, steps: int) -> dict[str, float]:
        """Mean seconds of each part of a step."""
        return time_parts(self.run, self.batches, steps)

    def loss(self, features: list[Tensor], params: list[Tensor]) -> Any:
        """The objective's terms of V features (B, D) and raw params (B, P), in the run's precision."""
        with self.run.accelerator.autocast():
            return self.run.pretrainer.objective(features, params)
