"""Runs that were killed, whose files are damaged or whose disk is full: resuming them costs steps, but no bit."""

import multiprocessing
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

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
    tiny,
)
from star_training.cli.main import main
from star_training.engine.saving.checkpoint import CheckpointWarning
from star_training.pretraining.run import Run


def killed_at(monkeypatch, out: Path, step: int, *settings: str) -> None:
    """A run that ends in step `step` without a chance to save anything."""

    def die(run: Run) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        at_step(patch, step, die)
        Run(tiny(*NOISY, *settings), out).train()


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(whole: Path, tmp_path: Path, monkeypatch):
    killed_at(monkeypatch, tmp_path, EVERY, EVALUATED)
    assert not (tmp_path / "checkpoints").exists()
    Run(tiny(*NOISY, EVALUATED), tmp_path, resume=True).train()
    assert_equal(exported(tmp_path), exported(whole))
    assert [e["step"] for e in entries(tmp_path)] == [*range(1, STEPS + 1)]
    assert [e["step"] for e in entries(tmp_path, "r2")] == [0, EPOCH, STEPS]


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(whole, tmp_path: Path, monkeypatch):
    killed_at(monkeypatch, tmp_path, 2 * EVERY + 1)
    older, newest = sorted((tmp_path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.warns(CheckpointWarning) as warned:
        run = Run(tiny(*NOISY), tmp_path, resume=True)
    assert len(warned) == 1 and newest.name in str(warned[0].message)
    assert older.name == f"step-{run.step:09d}.safetensors"
    run.train()
    assert_equal(exported(tmp_path), exported(whole))
    assert [e["step"] for e in entries(tmp_path)] == [*range(1, STEPS + 1)]


def test_a_run_whose_checkpoints_are_all_damaged_starts_from_scratch(whole: Path, tmp_path: Path, monkeypatch):
    killed_at(monkeypatch, tmp_path, 2 * EVERY + 1, EVALUATED)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(bytes(1000))
    with pytest.warns(CheckpointWarning):
        run = Run(tiny(*NOISY, EVALUATED), tmp_path, resume=True)
    assert run.step == 0
    run.train()
    assert_equal(exported(tmp_path), exported(whole))
    assert [e["step"] for e in entries(tmp_path, "r2")] == [0, EPOCH, STEPS]


def test_a_log_line_that_was_cut_short_is_written_again(whole: Path, tmp_path: Path, monkeypatch):
    killed_at(monkeypatch, tmp_path, 5)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "ep')
    Run(tiny(*NOISY), tmp_path, resume=True).train()
    assert [e["step"] for e in entries(tmp_path)] == [*range(1, STEPS + 1)]


def test_resuming_a_finished_run_exports_it_again(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    Run(tiny(*NOISY), tmp_path / "run", resume=True).train()
    assert_equal(exported(tmp_path / "run"), exported(whole))
    assert (tmp_path / "run" / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()


def test_a_full_disk_ends_in_one_line_and_costs_no_bit(whole: Path, tmp_path: Path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        at_step(patch, 4, lambda run: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard)))
        try:
            assert main(command(tmp_path / "run", settings=NOISY)) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"star-zoo: {tmp_path / 'run' / 'checkpoints'}") and "File too large; make room" in line
    assert "the last good checkpoint is " in line and "step-000000003.safetensors" in line
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000000003.safetensors"]
    assert main(command(tmp_path / "run", "--resume", settings=NOISY)) == 0
    assert_equal(exported(tmp_path / "run"), exported(whole))


def test_a_killed_loader_ends_the_run_in_one_line_and_costs_no_bit(whole: Path, tmp_path: Path, monkeypatch, capsys):
    def kill(run: Run) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            child.join()

    with monkeypatch.context() as patch:
        at_step(patch, 4, kill)
        assert main(command(tmp_path / "run", settings=(*NOISY, "run.workers=1"))) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("star-zoo: a worker that loads images was killed") and "run.workers=N" in line
    assert main(command(tmp_path / "run", "--resume", settings=NOISY)) == 0
    assert_equal(exported(tmp_path / "run"), exported(whole))
