"""The code behind a result, i.e. the versions of the packages and the commit of a checkout, and its peak memory."""

import functools
import importlib.metadata
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from star_catalog.version import version

from ..messages import detail, verbose
from ..settings.base import Settings
from ..settings.show import rows

if TYPE_CHECKING:
    import accelerate  # which evaluations don't need


def versions() -> dict[str, str]:
    """Returns versions by name; `commit` ends in + if tracked files have changed, and is missing outside a checkout."""
    packages = {"star_zoo": version(), "torch": torch.__version__, "timm": importlib.metadata.version("timm")}
    return packages | ({"commit": commit} if (commit := _commit(Path(__file__).parents[3])) else {})


@functools.cache
def _commit(root: Path) -> str:
    """Returns the commit of the checkout at `root`; "" if `root` is not the top of one."""
    if not (root / ".git").exists():  # an installed package may lie inside a checkout of something else
        return ""
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def computed_with(processes: "accelerate.PartialState") -> dict[str, Any]:
    """Returns the device, and the numbers of processes and threads, on which the bits of a training depend."""
    found = {"device": processes.device.type, "processes": processes.num_processes}
    return found | ({"threads": torch.get_num_threads()} if processes.device.type == "cpu" else {})


def other_bits(before: dict[str, Any] | None, now: dict[str, Any], step: int) -> str | None:
    """Returns a message if a resumed training computes differently than before `step`, else None.

    Sums over more or fewer threads or processes are taken in another order, and rounded differently.
    """
    if before in (None, now):
        return None
    were, are = (", ".join(f"{name} {value}" for name, value in each.items()) for each in (before or {}, now))
    return (
        f"computed with {were} until step {step}, now with {are}: the bits will differ from those of a run without "
        "this change; OMP_NUM_THREADS sets the threads"
    )


def print_details(settings: Settings, processes: "accelerate.PartialState") -> None:
    """Prints, if details are wanted, what a training computes with, and its settings that aren't the defaults."""
    if not verbose():
        return  # because the comments of the settings are parsed, which takes a tenth of a second
    detail(", ".join(f"{name} {value}" for name, value in (versions() | computed_with(processes)).items()))
    for row in rows(settings, {}):
        if row.value != row.default:
            detail(f"  {row.path}={row.value}")


def peak_memory(device: torch.device) -> int:
    """Returns the largest memory so far, in bytes: of tensors on an accelerator, of the whole process on a CPU."""
    if device.type == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return torch.accelerator.max_memory_allocated(device)
