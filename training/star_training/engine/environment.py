"""The code behind a result: the versions of the packages and, in a checkout of star-zoo, its commit."""

import functools
import subprocess
from pathlib import Path

import timm
import torch

import star_zoo


def versions() -> dict[str, str]:
    """Returns versions by name; `commit` ends in + if tracked files have changed, and is missing outside a checkout."""
    packages = {"star_zoo": star_zoo.__version__, "torch": torch.__version__, "timm": timm.__version__}
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
