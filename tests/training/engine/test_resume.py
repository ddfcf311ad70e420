"""Exact resume: a run that was stopped or killed and goes on ends with the same bits as one that was left alone."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from runs import (
    EPOCH,
    EVALUATED,
    EVERY,
    NOISY,
    STEPS,
    assert_equal,
    at_step,
    command,
    entries,
    exported,
    finish,
    pictures,
    start,
    stopped_at,
    tiny,
)
from star_training.cli.main import main
from star_training.engine.saving.checkpoint import Checkpoints, CheckpointWarning
from star_training.engine.signals import Stopped
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run

VARIANTS = {
    "one worker": ("run.workers=1", EVALUATED, "optimizer.clip=0.5"),
    "two workers, adamw": ("run.workers=2", "optimizer.name=adamw", "optimizer.decay_norms=false"),
    "lamb, contiguous": ("optimizer.name=lamb", "channels_last=false"),
    "lars, checkpointed activations": ("optimizer.name=lars", "grad_checkpointing=true"),
    "transformer": ("backbone=test_vit", 'backbone_args={"proj_drop_rate": 0.2, "drop_path_rate": 0.2}'),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_stopped_in_mid_epoch_goes_on_to_the_same_bits(name: str, tmp_path: Path, monkeypatch):
    recipe = tiny(*NOISY, *VARIANTS[name])
    Run(recipe, tmp_path / "whole").train()
    stopped_at(monkeypatch, recipe, tmp_path / "parted", EPOCH + 1)
    Run(recipe, tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))
    assert [e["loss"] for e in entries(tmp_path / "parted")] == [e["loss"] for e in entries(tmp_path / "whole")]


def test_a_run_may_go_on_with_other_settings_of_run(tmp_path: Path, monkeypatch):
    Run(tiny(*NOISY), tmp_path / "whole").train()
    stopped_at(monkeypatch, tiny(*NOISY, "run.workers=2"), tmp_path / "parted", EPOCH)  # at the end of an epoch
    other = tiny(*NOISY, "run.workers=0", "run.log_every=5", "run.keep=1", "run.eval_every=0")
    Run(other, tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint_of_the_very_step(tmp_path: Path, monkeypatch, capfd, number: int):
    stopped = stopped_at(monkeypatch, tiny("run.log_every=10"), tmp_path, 2, number)
    assert stopped.exit_code == 128 + number
    assert str(stopped).startswith(f"stopped by {signal.Signals(number).name} after step 2")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000002.safetensors"]
    assert [e["step"] for e in entries(tmp_path)] == [2]
    notice = "stopping as soon as a checkpoint is written; a second signal ends the run at once, without one\n"
    assert capfd.readouterr().err.count(notice) == (number != signal.SIGHUP)  # its terminal is closed


def test_a_run_without_an_intact_checkpoint_begins_again_and_says_so(tmp_path: Path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="after step 1, there is no checkpoint"):
        at_step(patch, 1, lambda run: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
        Run(tiny("epochs=1"), tmp_path).train()
    capsys.readouterr()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.safetensors").write_bytes(b"damaged")
    with pytest.warns(CheckpointWarning) as warned:
        Run(tiny("epochs=1"), tmp_path, resume=True).train()
    first, second = (str(each.message) for each in warned)
    assert first.startswith("skipped the damaged ")
    assert second == f"no intact checkpoint in {tmp_path}, so the run starts at step 0"
    assert [e["step"] for e in entries(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_mean_again_what_they_meant_before(tmp_path: Path, monkeypatch, number: int):
    before = signal.getsignal(number)
    stopped_at(monkeypatch, tiny(), tmp_path, 1, number)
    assert signal.getsignal(number) is before


def test_other_threads_compute_other_bits_and_a_resume_says_so(tmp_path: Path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    stopped_at(monkeypatch, tiny("run.eval_every=0"), tmp_path, 2)
    state = Checkpoints(tmp_path / "checkpoints", 1).newest().state
    assert state["computed_with"] == {"device": "cpu", "processes": 1, "threads": threads}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    results = Run(tiny("run.eval_every=0"), tmp_path, resume=True).train()
    note = f"computed with device cpu, processes 1, threads {threads} until step 2, now with device cpu, processes 1, "
    assert f"{note}threads {threads + 1}: the bits will differ" in capsys.readouterr().out
    assert results["training"]["threads"] == threads + 1 and results["training"]["processes"] == 1


def test_another_thread_than_the_main_one_trains_without_handlers(tmp_path: Path):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: Run(tiny("epochs=1", "run.eval_every=0"), tmp_path / "run").train()).result()
    assert len(entries(tmp_path / "run")) == EPOCH


# Real processes


LOGIN = """
import os, sys
from star_training.cli.main import main
terminal = os.open(sys.argv[1], os.O_RDWR)  # that of this session, because the process leads it
for standard in (0, 1, 2):
    os.dup2(terminal, standard)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_closed_terminal_leaves_a_checkpoint(whole: Path, tmp_path: Path):
    """The kernel sends SIGHUP to the processes of the terminal, and writing to it becomes an error."""
    out = tmp_path / "run"
    settings = (*NOISY, "run.workers=1")
    terminal, end = os.openpty()
    process = start([os.ttyname(end), *command(out, settings=settings)], program=("-c", LOGIN))
    os.set_blocking(terminal, False)

    def ready() -> bool:
        with contextlib.suppress(OSError):
            os.read(terminal, 65536)  # a full terminal would block the process
        return logged(out, 1)

    wait_until(ready, process)
    os.close(end)
    os.close(terminal)
    assert finish(process)[0] == 128 + signal.SIGHUP
    step = entries(out)[-1]["step"]
    assert step < STEPS and sorted((out / "checkpoints").iterdir())[-1].name == f"step-{step:09d}.safetensors"
    assert main(["pretrain", "--resume", "--out", str(out)]) == 0
    assert_equal(exported(out), exported(whole))


def wait_until(ready: Callable[[], object], process: subprocess.Popen) -> None:
    """Looks again and again, at most two minutes, as long as the process lives."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def logged(out: Path, step: int) -> bool:
    path = out / "log.jsonl"
    return path.exists() and f'{{"step": {step}, ' in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send", "workers"),
    [(signal.SIGTERM, os.kill, 1), (signal.SIGINT, os.killpg, 2)],
    ids=["SIGTERM", "SIGINT to the group"],
)
def test_a_process_that_gets_a_signal_stops_cleanly_and_goes_on(whole, tmp_path, number, send, workers):
    out = tmp_path / "run"
    settings = (*NOISY, f"run.workers={workers}")
    process = start(command(out, settings=settings))
    wait_until(lambda: logged(out, 1), process)
    send(process.pid, number)
    code, _, err = finish(process)
    assert code == 128 + number, err
    notice, _, line = err.splitlines()  # an empty one, because a progress bar may stand there
    assert notice.startswith("stopping as soon as a checkpoint is written; ")
    step = entries(out)[-1]["step"]
    assert 1 <= step < STEPS
    assert line.startswith(f"stopped by {signal.Signals(number).name} after step {step}") and "--resume" in line
    assert sorted((out / "checkpoints").iterdir())[-1].name == f"step-{step:09d}.safetensors"
    assert main(command(out, "--resume", settings=settings)) == 0
    assert_equal(exported(out), exported(whole))
    assert [e["step"] for e in entries(out)] == [*range(1, STEPS + 1)]


SLOW = """
import hashlib, sys
from pathlib import Path
from star_training.cli.main import program
from star_training.pretraining.run import Run

def slow(run, batches, step=Run._train_step):
    step(run, batches)
    Path(run.out, "slow").touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)

Run._train_step = slow
program()
"""


@pytest.mark.slow
def test_two_signals_within_a_slow_step_end_the_run_at_once(tmp_path: Path):
    process = start(command(tmp_path / "run"), program=("-c", SLOW))
    wait_until((tmp_path / "run" / "slow").exists, process)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
        time.sleep(0.1)
    code, _, err = finish(process)
    blank, line = err.splitlines()
    assert code == 128 + signal.SIGTERM and blank == ""
    assert line.startswith("stopped by SIGTERM after step 1, there is no checkpoint; go on with: ")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_killed_process_goes_on_from_its_last_checkpoint(whole: Path, tmp_path: Path):
    out = tmp_path / "run"
    settings = (*NOISY, EVALUATED, "run.workers=1")
    process = start(command(out, settings=settings))
    wait_until(lambda: logged(out, EVERY + 1), process)  # a step beyond the checkpoint
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert [e["step"] for e in entries(out)][: EVERY + 1] == [*range(1, EVERY + 2)]
    assert main(command(out, "--resume", settings=settings)) == 0
    assert_equal(exported(out), exported(whole))
    assert [e["step"] for e in entries(out)] == [*range(1, STEPS + 1)]
    assert [e["step"] for e in entries(out, "r2")] == [0, EPOCH, STEPS]


# What may not differ


def refusal(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_recipe_that_differs_is_refused_with_the_fields_that_differ(whole: Path, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    line = refusal(capsys, command(whole, "--resume", settings=(*NOISY, "optimizer.lr=0.5", "seed=7", "run.keep=9")))
    assert "optimizer.lr: 0.002, 0.5" in line and "seed: 0, 7" in line and "--init-from" in line
    assert "run." not in line and "batch_size" not in line
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_folder_with_a_run_is_not_overwritten(whole: Path, capsys):
    line = refusal(capsys, command(whole, settings=NOISY))
    assert f"{whole} already holds a run" in line and "--resume" in line and "--out" in line


def test_there_must_be_a_run_to_resume(tmp_path: Path, capsys):
    line = refusal(capsys, command(tmp_path / "none", "--resume"))
    assert f"{tmp_path / 'none'} holds no run to resume" in line
    assert not (tmp_path / "none").exists()


def test_a_broken_recipe_file_is_reported(whole: Path, tmp_path: Path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "recipe.json").write_text('{"name": "x"')
    assert str(tmp_path / "run" / "recipe.json") in refusal(capsys, command(tmp_path / "run", "--resume"))


def test_images_may_move_but_not_change(tmp_path: Path, monkeypatch):
    policy = 'policy={"augmentations": [{"name": "Crop", "size": 32}], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}'
    pictures(tmp_path / "before", 16)

    def recipe(folder: str) -> Recipe:
        return tiny(policy, f"data.source={tmp_path / folder}", "epochs=3", "run.eval_every=0")

    Run(recipe("before"), tmp_path / "whole").train()
    stopped_at(monkeypatch, recipe("before"), tmp_path / "parted", 3)
    shutil.move(tmp_path / "before", tmp_path / "after")
    pictures(tmp_path / "changed", 16, size=41)
    with pytest.raises(ValueError, match=r"the images of .*changed are not those that .*parted began with"):
        Run(recipe("changed"), tmp_path / "parted", resume=True)
    Run(recipe("after"), tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))
