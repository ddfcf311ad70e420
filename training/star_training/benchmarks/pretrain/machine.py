"""What a measurement was made on, with and when."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Processor, its cores, torch's threads among them, the device that trains, versions, the day (UTC)."""
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
    """The model's name as Linux tells it, or what Python knows elsewhere."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
