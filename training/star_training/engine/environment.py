"""The code behind a result, i.e. the versions of the packages and the commit of a checkout, and its peak memory."""

import functools
import importlib.metadata
import resource
import subprocess
import sys
from pathlib import Path

import torch

from ..version import version


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


def peak_memory(device: torch.device) -> int:
    """Returns the largest memory so far, in bytes: of tensors on an accelerator, of the whole process on a CPU."""
    if device.type == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return torch.accelerator.max_memory_allocated(device)
