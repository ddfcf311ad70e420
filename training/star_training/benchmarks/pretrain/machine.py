"""The machine, the versions and the date of a measurement."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Returns the processor, its cores, the threads of torch, the training device, versions, and the date (UTC)."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "cpu": _cpu(Path("/proc/cpuinfo")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": "cpu" if device is None else device.type,
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "torchvision", "timm", "pillow")},
        },
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _cpu(file: Path) -> str:
    """Returns the processor's name, from /proc/cpuinfo on Linux, otherwise from Python."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
