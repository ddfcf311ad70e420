"""Tiny pretraining runs for the tests: seconds on one core, with every part of a real one in them.

Eight steps of eight spirographs under timm's test_resnet, in two epochs; a log entry at each step.
"""

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import star_training
import star_zoo
from star_training import recipes
from star_training.engine.signals import Stopped
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run
from star_training.settings.base import override
from star_zoo import objectives
from warm import MODULES, Server

STEPS, EPOCH, EVERY = 8, 4, 3  # optimiser steps in all, in an epoch, between checkpoints
TINY = (
    "backbone=test_resnet",
    "batch_size=8",
    "channels_last=false",  # which no process has to try first
    "data.source=spirograph:32",
    "objective_args.num_experts=2",
    "objective_args.hidden=16",
    "precision=no",
    "run.workers=0",
    "run.log_every=1",
    "run.eval_every=0",  # which takes as long as a third of the steps; EVALUATED is for the tests that need it
    f"run.checkpoint_every={EVERY}",
)
EVALUATED = "run.eval_every=1"
# what makes the same weights hard to reach twice: noise, momentum, decay, and an order in memory that isn't torch's own
NOISY = (
    "backbone_args.drop_rate=0.2",
    "backbone_args.drop_path_rate=0.2",
    "optimizer.name=momentum",
    "accumulate=2",
    "batch_size=4",
    "channels_last=true",
)


def tiny(*settings: str) -> Recipe:
    """The tiny recipe with some settings as on the command line."""
    return override(recipes.find("spirograph_tiny"), [*TINY, *settings])


GROUP = ("backbone=star_c4_resnet10t", "backbone_args.stem=[4]", "backbone_args.channels=[4,8,16,32]")


def tiny_with(objective: str, *settings: str) -> Recipe:
    """The tiny recipe with this objective, on a backbone with regular features if the objective needs one."""
    needed = GROUP if objectives.find(objective).needs_group else ()
    return tiny(*settings, *needed).with_objective(objective)


def command(out: Path, *arguments: str, settings: tuple[str, ...] = ()) -> list[str]:
    """The command line arguments that run the tiny recipe."""
    made = ["pretrain", "spirograph_tiny", "--out", str(out)]
    for setting in (*TINY, *settings):
        made += ["--set", setting]
    return [*made, *arguments]


PACKAGES = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (star_zoo, star_training))
STAR = ("-m", "star_training")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def start(
    arguments: list[str],
    *,
    program: tuple[str, ...] = STAR,
    warnings: str = "error",
    cwd: Path | None = None,
) -> subprocess.Popen:
    """A real process, leader of a group of its own, that runs `python PROGRAM`; every warning is an error."""
    environment = os.environ | settings(warnings)
    if _server().fits(environment):
        return cast(subprocess.Popen, _server().start((*program, *arguments), environment, cwd or Path.cwd()))
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
        env=environment,
    )


def settings(warnings: str = "error") -> dict[str, str]:
    """The environment variables of a process that a test starts."""
    # but the advice against more workers than processors: a small machine must run the tests too
    shown = f"{warnings},ignore:This DataLoader will create"
    return {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": shown, "PYTHONPATH": PACKAGES}


def python() -> Path:
    """A program that starts as python does, but without the time of the imports, for scripts that start processes."""
    return _server().python


def plain(code: str, *arguments: object, cwd: Path) -> str:
    """The output of code in a process that has imported timm and nothing of ours; it must succeed."""
    process = _server("timm", "safetensors.torch").start(
        ("-c", code, *map(str, arguments)), os.environ | settings(), cwd
    )
    status, out, err = finish(cast(subprocess.Popen, process))
    assert status == 0, err
    return out


@functools.cache
def _server(*modules: str) -> Server:
    """The server of this process's tests that has imported these modules, or everything."""
    server = Server(os.environ | settings(), modules or MODULES)
    atexit.register(server.close)
    return server


def finish(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str, str]:
    """Waits for a process: exit code, stdout, stderr."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s; it said:\n{out}\n{err}") from None
    return process.returncode, out, err


def entries(out: Path, kind: str = "loss") -> list[dict[str, Any]]:
    """The log's entries that hold `kind`, in order."""
    lines = (out / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if kind in entry]


def exported(out: Path) -> dict[str, Tensor]:
    """Every tensor that a finished run exported."""
    return {
        f"{name}:{key}": tensor
        for name in ("model", "heads")
        for key, tensor in load_file(out / "export" / f"{name}.safetensors").items()
    }


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """To the last bit."""
    assert a.keys() == b.keys() and a
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def at_step(monkeypatch: Any, step: int, act: Callable[[Run], None]) -> None:
    """Calls `act` in the middle of every run's step `step`, after its update."""
    original = Run._train_step

    def train_step(run: Run, batches: Any) -> None:
        original(run, batches)
        if run.step == step:
            act(run)

    monkeypatch.setattr(Run, "_train_step", train_step)


def stopped_at(monkeypatch: Any, recipe: Recipe, out: Path, step: int, number: int = signal.SIGTERM) -> Stopped:
    """A run that is sent a signal in step `step`; gives what it raised."""
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda run: os.kill(os.getpid(), number))
        try:
            Run(recipe, out).train()
        except Stopped as stopped:
            return stopped
    raise AssertionError("the run was not stopped")


def pictures(folder: Path, count: int, classes: tuple[str, ...] = ("a", "b"), size: int = 40) -> Path:
    """Noise images in class folders, of slightly different sizes."""
    generator = torch.Generator().manual_seed(0)
    for k in range(count):
        path = folder / classes[k % len(classes)] / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (size, size + k % 5, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(path)
    return folder
