"""The Accelerator of a training: precision, device, tracker."""

from pathlib import Path

import accelerate
import torch


def make_accelerator(precision: str, out: Path, tracker: str | None) -> accelerate.Accelerator:
    """Returns an Accelerator for a precision, with a tracker that writes to `out` if given. Raises ValueError."""
    known = [t.value for t in accelerate.utils.LoggerType if t.value != "all"]
    if tracker and tracker not in known:
        raise ValueError(f"tracker {tracker!r} not found; known: {', '.join(known)}")
    # Accelerate itself would go on silently without a tracker that is not installed
    if tracker and tracker not in [t.value for t in accelerate.tracking.get_available_trackers()]:
        raise ValueError(f"tracker {tracker!r} is not installed; pip install {tracker}")
    # where there is no accelerator, several processes must be told to meet on the CPU
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if cpu and precision == "fp16":  # Accelerate would train on without a loss scaler
        raise ValueError("precision=fp16 needs a GPU; on a CPU use bf16 or no")
    return accelerate.Accelerator(
        mixed_precision=precision, cpu=cpu, log_with=tracker, project_dir=str(out) if tracker else None
    )
