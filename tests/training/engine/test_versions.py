"""The versions behind a result, and the peak memory."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest
import torch

from star_training.engine import environment as module
from star_training.engine.environment import peak_memory, versions


def test_versions_are_those_of_the_installed_packages():
    found = versions()
    for name, distribution in (("star_zoo", "star-zoo"), ("torch", "torch"), ("timm", "timm")):
        assert found[name].partition("+")[0] == importlib.metadata.version(distribution).partition("+")[0]


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_checkout_reports_its_commit_and_whether_it_was_changed(tmp_path: Path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    (tmp_path / "untracked").write_text("")
    assert module._commit.__wrapped__(tmp_path) == commit
    (tmp_path / "code.py").write_text("2\n")
    assert module._commit.__wrapped__(tmp_path) == f"{commit}+"


@pytest.mark.parametrize("kind", ["no checkout", "inside another", "broken"])
def test_what_is_no_checkout_has_no_commit(tmp_path: Path, kind: str):
    folder = tmp_path
    if kind == "inside another":
        git(tmp_path, "init", "-q")
        folder = tmp_path / "site-packages"
        folder.mkdir()
    if kind == "broken":
        (tmp_path / ".git").write_text("nonsense")
    assert module._commit.__wrapped__(folder) == ""


def test_peak_memory_holds_freed_tensors():
    block = torch.ones(2**25)
    size = block.numel() * 4
    del block
    assert size < peak_memory(torch.device("cpu")) < 2**40
