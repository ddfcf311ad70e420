"""The processes of a training and their Accelerator: device, precision, tracker."""

from pathlib import Path

import accelerate
import torch

from star_catalog.names import not_found


def start_processes(tracker: str | None) -> accelerate.PartialState:
    """Joins the processes of this training, and returns this one's device and place among them.

    Raises ValueError for a tracker that is unknown or not installed.
    """
    _check_tracker(tracker)
    # where there is no accelerator, several processes are asked explicitly to meet on the CPU
    return accelerate.PartialState(cpu=_on_cpu())


def _on_cpu() -> bool:
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def _check_tracker(tracker: str | None) -> None:
    """Raises ValueError for a tracker that is unknown or not installed."""
    known = [t.value for t in accelerate.utils.LoggerType if t.value != "all"]
    if tracker and tracker not in known:
        raise ValueError(not_found("tracker", tracker, known))
    # Accelerate itself would go on silently without a tracker that is not installed
    if tracker and tracker not in [t.value for t in accelerate.tracking.get_available_trackers()]:
        raise ValueError(f"tracker {tracker!r} is not installed; pip install {tracker}")


def check_device(precision: str, device: torch.device, resumed: bool, anew: str) -> None:
    """Raises ValueError for fp16 on a CPU, where Accelerate would train without a loss scaler.

    `anew` is the advice on how to start a resumed run again.
    """
    if precision == "fp16" and device.type == "cpu":
        if resumed:
            problem = "the run was started with precision=fp16, which needs a GPU"
            raise ValueError(f"{problem}; resume it on one, or start anew with {anew} and precision=no")
        raise ValueError("precision=fp16 needs a GPU; on a CPU use bf16 or no")


def make_accelerator(precision: str, out: Path, tracker: str | None) -> accelerate.Accelerator:
    """Returns an Accelerator for a precision, with a tracker that writes to `out` if given."""
    state = accelerate.state
    # Accelerate refuses a second precision in a process, but each run has its own; no public function resets it
    if state.is_initialized() and state.AcceleratorState().mixed_precision != precision:
        state.AcceleratorState._reset_state()
    return accelerate.Accelerator(
        mixed_precision=precision, cpu=_on_cpu(), log_with=tracker, project_dir=str(out) if tracker else None
    )
