"""Two processes compute what one does, for every objective; a run may go on in fewer or more; a lost worker ends it.

Tolerances are of sums of float32 in another order: two processes add up halves of a batch, one adds up all of it.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from runs import NOISY, STEPS, assert_equal, command, entries, exported, finish, start
from star_training.data.views import StepBatches
from star_zoo import objectives
from still_runs import gradients, run_all, still

TWO = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    str(Path(__file__).parents[2] / "support/still_runs.py"),
)
SAVED = ("backbone=test_vit", "run.eval_every=0", "run.checkpoint_every=1", "run.keep=9")
STILL = (*SAVED, "accumulate=2", "batch_size=4", "optimizer.name=momentum", "optimizer.lr=1", "optimizer.clip=1")
KILLABLE = (*NOISY, *SAVED, 'backbone_args={"proj_drop_rate": 0.2}', "epochs=4")  # dropout is each process's own
TURNING, SMALL = "backbone=star_c4_resnet10t", 'backbone_args={"channels": [8, 8, 16, 16], "stem": [8, 8]}'
HALF = STEPS // 2


def two(commands: list[list[str]], place: Path) -> subprocess.Popen:
    """Two processes that do the commands."""
    place.mkdir(parents=True)
    (place / "commands.json").write_text(json.dumps(commands))
    return start([str(place / "commands.json")], program=TWO)


def one_step(out: Path, objective: str) -> list[str]:
    """A run of one step of 32 images, in two batches."""
    made = ["pretrain", "spirograph_tiny", "--objective", objective, "--out", str(out)]
    backbone = [TURNING, SMALL] if objectives.find(objective).needs_group else ["backbone=test_vit"]
    sets = [*backbone, "channels_last=false", "batch_size=16", "accumulate=2", "data.source=spirograph:32"]
    if "hidden" in objectives.settings(objective):
        sets.append("objective_args.hidden=16")
    for setting in (*sets, "epochs=1", "precision=no", "run.eval_every=0", "run.workers=0"):
        made += ["--set", setting]
    return made


def cut(whole: Path, out: Path) -> Path:
    """What a run had left had it been killed at half its way."""
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("export"))
    for path in sorted((out / "checkpoints").iterdir())[HALF:]:
        path.unlink()
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Runs by one process in one/, by two in two/: a step of every objective, a whole run, one resumed half-way."""
    place = tmp_path_factory.mktemp("agree")

    def commands(count: str) -> list[list[str]]:
        steps = [one_step(place / count / name, name) for name in objectives.known()]
        return [*steps, command(place / count / "whole", settings=STILL)]

    with still():
        run_all(commands("one"))
    resumed = command(cut(place / "one" / "whole", place / "two" / "resumed"), "--resume", settings=STILL)
    killable = command(place / "two" / "killable", settings=KILLABLE)
    code, _, err = finish(two([*commands("two"), resumed, killable], place / "processes"), 400)
    assert code == 0, err
    with still():
        run_all([command(cut(place / "two" / "whole", place / "one" / "resumed"), "--resume", settings=STILL)])
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.known())
def test_a_step_of_two_processes_is_that_of_one(place: Path, name: str):
    (one,), (two,) = (entries(place / count / name) for count in ("one", "two"))
    terms = set(one) - {"images_per_second", "data_wait", "seconds"}
    assert "loss" in terms and {t: two[t] for t in terms} == pytest.approx({t: one[t] for t in terms}, rel=1e-6)
    ones, twos = (gradients(place / count / name) for count in ("one", "two"))
    assert ones.keys() == twos.keys()
    nothing = {key: torch.zeros(()) for key in ones}
    size = {key: distance(ones, nothing, [key]) for key in ones}
    whole = distance(ones, nothing, ones)
    if objectives.find(name).needs_group or name == "canonicalization":
        # gradients of convolutions add up all pixels of a batch, in an order that depends on its size; some cancel
        assert all(distance(twos, ones, [key]) < 1e-3 * max(size[key], whole / 100) for key in ones)
    else:
        assert distance(twos, ones, ones) < 1e-6 * whole
        assert all(distance(twos, ones, [key]) < 1e-5 * size[key] for key in ones)


def distance(a: dict[str, Tensor], b: dict[str, Tensor], names: Iterable[str]) -> float:
    """Between all numbers of those names together."""
    return float(torch.cat([(a[name].double() - b[name].double()).flatten() for name in names]).norm())


@pytest.mark.slow
@pytest.mark.parametrize("run", ["one/resumed", "two/whole", "two/resumed"])
def test_a_run_goes_on_in_fewer_or_more_processes(place: Path, run: str):
    losses, expected = ({e["step"]: e["loss"] for e in entries(place / name)} for name in (run, "one/whole"))
    assert list(losses) == [*range(1, STEPS + 1)] and losses == pytest.approx(expected, rel=1e-5)
    first, last = (saved(place / "one" / "whole", step) for step in (1, STEPS))
    moved = {name: tensor for name, tensor in last.items() if not torch.equal(tensor, first[name])}
    assert distance(saved(place / run, STEPS), last, moved) < 1e-5 * distance(first, last, moved)


def saved(out: Path, step: int) -> dict[str, Tensor]:
    """Weights and momentum after a step."""
    tensors = load_file(out / "checkpoints" / f"step-{step:09d}.safetensors")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("random.")}


@pytest.mark.slow
def test_a_killed_worker_ends_them_all_and_the_run_goes_on_to_the_same_bits(place: Path, tmp_path: Path):
    out, resume = tmp_path / "run", ()
    for rank in (1, 0):
        logged = len(entries(out)) if resume else 0
        process = two([command(out, *resume, settings=KILLABLE)], tmp_path / f"life-{rank}")
        deadline = time.monotonic() + 120
        while not ((out / "log.jsonl").exists() and len(entries(out)) >= logged + 2):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(int((tmp_path / f"life-{rank}" / f"rank-{rank}").read_text()), signal.SIGKILL)
        code, _, err = finish(process, 60)
        assert code == 1 and "Signal 9 (SIGKILL) received by PID" in err, err
        resume = ("--resume",)
    code, _, err = finish(two([command(out, "--resume", settings=KILLABLE)], tmp_path / "last life"))
    assert code == 0, err
    assert_equal(exported(out), exported(place / "two" / "killable"))
    assert [e["step"] for e in entries(out)] == [e["step"] for e in entries(place / "two" / "killable")]


# The shares of the processes


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    world=st.integers(1, 9),
    share=st.integers(1, 5),
    accumulate=st.integers(1, 4),
    spare=st.integers(0, 40),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_shares_do_not_overlap_and_make_up_the_batch_of_one(world, share, accumulate, spare, epochs, seed, data):
    batch = world * share
    count = batch * accumulate * data.draw(st.integers(1, 3)) + spare
    steps = count // (batch * accumulate) * epochs
    first = data.draw(st.integers(0, steps))

    def batches(steps: range, rank: int = 0, world: int = 1) -> list[list[tuple[int, int, int]]]:
        made = StepBatches(count, batch, accumulate, seed, steps, rank, world)
        assert len(made) == len(list(made))
        return list(made)

    whole = batches(range(steps))
    shares = [batches(range(first, steps), rank, world) for rank in range(world)]
    together = [[key for part in parts for key in part] for parts in zip(*shares, strict=True)]
    assert together == whole[first * accumulate :]  # resumed too, and so without an overlap, if one has none
    assert {len(part) for parts in shares for part in parts} <= {share}
    for epoch in range(epochs):
        seen = [index for keys in whole for e, index, _ in keys if e == epoch]
        assert len(seen) == len(set(seen)) == count // (batch * accumulate) * batch * accumulate
        assert set(seen) <= set(range(count))
