"""Resident memory of this process and of its workers, as the system counts it."""

from pathlib import Path


def peak() -> int:
    """Returns this program's largest resident memory in bytes; getrusage's also counts its parent's before exec."""
    try:
        return _kilobytes(Path("/proc/self/status"), "VmHWM:") * 1024
    except OSError:  # not Linux
        import torch

        from ...engine.environment import peak_memory

        return peak_memory(torch.device("cpu"))


def proportional(process: int) -> int:
    """Returns a process's memory with its share of shared pages in bytes, 0 if the system doesn't report it."""
    try:
        return _kilobytes(Path("/proc", str(process), "smaps_rollup"), "Pss:") * 1024
    except OSError:
        return 0


def _kilobytes(file: Path, field: str) -> int:
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
