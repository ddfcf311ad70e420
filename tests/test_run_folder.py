"""A run's folder is one process's: real processes on one folder, and what lets it go."""

import signal
import time
from pathlib import Path

import pytest

from runs import at_step, command, entries, finish, start, stopped_at, tiny
from training.pretrain import Run
from training.run_folder import FolderLock


def test_a_second_process_is_refused_and_disturbs_nothing(tmp_path: Path):
    out = tmp_path / "run"
    long = ("epochs=500",)
    first = start(command(out, settings=long))
    deadline = time.monotonic() + 60
    while not (out / "log.jsonl").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    code, _, said = finish(start(command(out, "--resume", settings=long)))
    assert code == 1 and f"another process is at work in {out}; let it end, or choose another --out" in said
    assert first.poll() is None  # and goes on
    first.send_signal(signal.SIGKILL)
    finish(first)
    reached = entries(out)[-1]["step"]
    second = start(command(out, "--resume", settings=long))  # a killed one holds nothing
    while entries(out)[-1]["step"] <= reached and second.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    assert finish(second)[0] == 128 + signal.SIGTERM
    steps = [entry["step"] for entry in entries(out)]
    assert steps == sorted(set(steps))  # each step was told once


def test_a_run_that_ended_or_stopped_lets_its_folder_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = tiny()
    stopped = stopped_at(monkeypatch, recipe, tmp_path, 4)  # kept, and with it the run
    done = Run(recipe, tmp_path, resume=True)
    done.train()
    assert Run(recipe, tmp_path, resume=True).step == done.steps and stopped.exit_code


def test_the_folder_is_taken_while_a_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refused = []

    def try_it(run: Run) -> None:
        with pytest.raises(ValueError, match="another process is at work"):
            FolderLock(tmp_path)
        refused.append(run.step)

    at_step(monkeypatch, 2, try_it)
    Run(tiny(), tmp_path).train()
    assert refused == [2]


def test_a_lock_is_let_go_by_leaving_by_hand_and_by_forgetting(tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    with FolderLock(folder), pytest.raises(ValueError, match="another process is at work in .*folder"):
        FolderLock(folder)
    lock = FolderLock(folder)
    lock.let_go()
    lock.let_go()
    again = FolderLock(folder)
    del again
    FolderLock(folder).let_go()
    assert list(folder.iterdir()) == []
