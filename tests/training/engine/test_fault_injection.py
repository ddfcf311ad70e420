"""A run that is killed again and again, at any moment, ends with the bits of one that was left alone.

Every life is a real process that ends by a real SIGKILL.
"""

import contextlib
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from runs import NOISY, assert_equal, command, entries, exported, finish, start
from star_training.cli.main import main
from star_training.engine.saving.checkpoint import Checkpoints

pytestmark = pytest.mark.slow

KILLS, STEPS = 12, 24
SETTINGS = (*NOISY, "epochs=6", "run.checkpoint_every=1", "run.eval_every=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(out, settings=SETTINGS)) == 0
    return out


def going_on(out: Path) -> list[str]:
    """The command that begins the run in a folder, or goes on with it."""
    return command(out, *(["--resume"] if (out / "recipe.json").exists() else []), settings=SETTINGS)


def lines(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def unfinished(out: Path) -> set[Path]:
    """Files that are being written, or were when a life ended."""
    return {path for folder in (out, out / "checkpoints", out / "export") for path in folder.glob(".*")}


def after_seconds(hundredths: int, life: int, out: Path) -> Callable[[], bool]:
    end = time.monotonic() + hundredths / 100
    return lambda: time.monotonic() >= end


def after_lines(count: int, life: int, out: Path) -> Callable[[], bool]:
    end = lines(out) + count
    return lambda: lines(out) >= end


def within_file(count: int, life: int, out: Path) -> Callable[[], bool]:
    """While the `count`th file of a life is written; the life is stopped first, so that it can't end it any more."""
    old, begun = unfinished(out), set()

    def due() -> bool:
        begun.update(unfinished(out) - old)
        if len(begun) < count:
            return False
        os.kill(life, signal.SIGSTOP)
        if unfinished(out) - old:
            return True
        os.kill(life, signal.SIGCONT)
        return False

    return due


def kill_when(due: Callable[[], bool], life: int) -> None:
    """Kills a life once it is due, if it hasn't ended before."""
    with contextlib.suppress(ProcessLookupError):
        while not due():
            os.kill(life, 0)  # raises once the life has ended
        os.kill(life, signal.SIGKILL)


def check_checkpoints(out: Path) -> None:
    """What is to be seen as a checkpoint is one, to the last byte."""
    checkpoints = Checkpoints(out / "checkpoints", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = checkpoints.newest()
    assert (newest is None) == (checkpoints.paths() == [])
    for path in checkpoints.paths():
        assert load_file(path)


def check_end(out: Path, whole: Path) -> None:
    assert_equal(exported(out), exported(whole))
    assert [e["step"] for e in entries(out)] == [*range(1, STEPS + 1)]
    assert [e["loss"] for e in entries(out)] == [e["loss"] for e in entries(whole)]
    assert [e["step"] for e in entries(out, "r2")] == [e["step"] for e in entries(whole, "r2")]
    assert {p.name for p in out.rglob("*")} == {p.name for p in whole.rglob("*")}  # and nothing that a life left


def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_bits(whole: Path, tmp_path: Path):
    chance = random.Random(0)
    outs, kills, torn = [tmp_path / "0"], 0, 0
    while kills < KILLS:
        out = outs[-1]
        old = unfinished(out)
        moment, most = chance.choice([(after_seconds, 150), (after_lines, 7), (within_file, 7)])
        life = start(going_on(out))
        kill_when(moment(chance.randint(1, most), life.pid, out), life.pid)
        code, _, _ = finish(life)
        if code == 0:  # it had ended before; the next life is of another run
            outs.append(tmp_path / f"{len(outs)}")
            continue
        assert code == -signal.SIGKILL
        check_checkpoints(out)
        kills += 1
        torn += bool(unfinished(out) - old)
    assert finish(start(going_on(outs[-1])))[0] == 0  # and left alone
    assert torn >= KILLS // 4  # files were begun and never ended
    for out in outs:
        check_end(out, whole)
