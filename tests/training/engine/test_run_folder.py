"""A run's folder is one process's: real processes on one folder, and what lets it go."""

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from runs import at_step, command, entries, finish, start, stopped_at, tiny
from star_training.engine.run_dir import check_folder, lock_folder
from star_training.pretraining.run import Run


def test_a_second_process_is_refused_and_disturbs_nothing(tmp_path: Path):
    out = tmp_path / "run"
    long = ("epochs=5000",)
    first = start(command(out, settings=long))
    deadline = time.monotonic() + 300  # also on a busy machine
    while not (out / "log.jsonl").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    code, _, said = finish(start(command(out, "--resume", settings=long)))
    assert code == 1 and f"another process is using {out}; let it end, or choose another folder" in said
    assert first.poll() is None  # and goes on
    first.send_signal(signal.SIGKILL)
    finish(first)
    reached = last_step(out)
    second = start(command(out, "--resume", settings=long))  # a killed one holds nothing
    while last_step(out) <= reached and second.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    assert finish(second)[0] == 128 + signal.SIGTERM
    steps = [entry["step"] for entry in entries(out)]
    assert steps == sorted(set(steps))  # each step was logged once


def last_step(out: Path) -> int:
    """The last step in the log, which a resumed run first cuts down to its checkpoint."""
    return max((entry["step"] for entry in entries(out)), default=0)


def test_a_run_that_ended_or_stopped_lets_its_folder_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = tiny()
    stopped = stopped_at(monkeypatch, recipe, tmp_path, 4)  # kept, and with it the run
    done = Run(recipe, tmp_path, resume=True)
    done.train()
    assert Run(recipe, tmp_path, resume=True).step == done.steps and stopped.exit_code


def test_the_folder_is_taken_while_a_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refused = []

    def try_it(run: Run) -> None:
        with pytest.raises(ValueError, match="another process is using"):
            lock_folder(tmp_path)
        refused.append(run.step)

    at_step(monkeypatch, 2, try_it)
    Run(tiny(), tmp_path).train()
    assert refused == [2]


def test_a_lock_is_let_go_by_leaving_by_hand_and_by_forgetting(tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    with lock_folder(folder), pytest.raises(ValueError, match="another process is using .*folder"):
        lock_folder(folder)
    lock = lock_folder(folder)
    with lock:
        pass
    again = lock_folder(folder)
    del again, lock
    with lock_folder(folder):
        pass
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_processes_that_were_forked_hold_no_lock(tmp_path: Path):
    """As those that load images: neither while the one that trained lives, nor for a moment after it was killed."""
    code = """if True:
        import os, sys, time, pathlib
        from star_training.engine.run_dir import check_folder, lock_folder
        lock = lock_folder(pathlib.Path(sys.argv[1]))
        if child := os.fork():
            time.sleep(0.5)  # until the child has begun
            print(child, flush=True)
            os.kill(os.getpid(), 9)
        time.sleep(20)
    """
    _, child, _ = finish(start([str(tmp_path)], program=("-c", code)))
    try:
        with lock_folder(tmp_path):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_lock_is_let_go_whoever_has_a_copy_of_its_handle(tmp_path: Path):
    lock = lock_folder(tmp_path)
    handles = [int(name) for name in os.listdir("/dev/fd")]
    (handle,) = [h for h in handles if same_file(h, tmp_path / ".lock")]
    copy = os.dup(handle)
    with lock:
        pass
    with lock_folder(tmp_path):
        pass
    os.close(copy)


def same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:  # the handle that listed the handles
        return False


def test_a_folder_that_can_not_be_locked_admits_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refused)
    with lock_folder(tmp_path), lock_folder(tmp_path):
        pass


def test_a_folder_in_which_nothing_was_trained_may_be_removed(tmp_path: Path):
    recipe, path = tiny(), tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.to_dict()))
    for log, removable in (("", True), ('{"step": 1}\n', False)):
        (tmp_path / "log.jsonl").write_text(log)
        with pytest.raises(
            ValueError, match=r"already holds a run; resume the run \(--resume, resume=True\), or"
        ) as raised:
            check_folder(recipe, path, False, "")
        assert ("nothing was trained there yet, so you can also remove it" in str(raised.value)) == removable
        with lock_folder(tmp_path), pytest.raises(ValueError, match="another process is using"):
            check_folder(recipe, path, False, "")
        with pytest.raises(ValueError, match=f"{tmp_path} already holds a run of pretrain; choose another folder"):
            check_folder(recipe, tmp_path / "finetune.json", False, "")
