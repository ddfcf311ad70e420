"""Runs whose batch norm stays as it is, so that two processes compute what one does: `torchrun still_runs.py FILE`.

On CPUs batch norm sees the images of one process only; in eval mode it sees none. FILE holds command lines as JSON;
one pair of processes does them all, one after the other.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from star_training.cli.main import main
from star_training.pretraining.run import Run
from star_training.publishing import card


@contextlib.contextmanager
def still() -> Iterator[None]:
    """Within it no batch norm is ever in training mode. Trial exports and cards, which take longer, are left out."""
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(Run, "try_export", lambda self: None))
        patches.enter_context(mock.patch.object(card, "write_after_training", lambda run, changed: None))
        for kind in (nn.BatchNorm1d, nn.BatchNorm2d):
            patches.enter_context(
                mock.patch.object(kind, "train", lambda self, mode=True: nn.Module.train(self, False))
            )
        yield


def run_all(commands: list[list[str]]) -> None:
    """Does each command, and keeps the gradients of its last step beside the run's folder."""
    last: dict[str, Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        used = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        last.clear()
        last.update({f"{number:03d}": p.grad.clone().contiguous() for number, p in enumerate(used)})

    hook = register_optimizer_step_pre_hook(keep)
    try:
        for arguments in commands:
            assert main(arguments) == 0, arguments
            if os.environ.get("RANK", "0") == "0":
                save_file(last, _beside(Path(arguments[arguments.index("--out") + 1])))
    finally:
        hook.remove()


def gradients(out: Path) -> dict[str, Tensor]:
    """Those of the last step of a run that `run_all` did."""
    return load_file(_beside(out))


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.gradients")


if __name__ == "__main__":
    given = Path(sys.argv[1])
    given.with_name(f"rank-{os.environ['RANK']}").write_text(str(os.getpid()))
    # the processes stay together after a run, for the next one
    with still(), mock.patch.object(PartialState, "destroy_process_group", lambda self, group=None: None):
        run_all(json.loads(given.read_text()))
