"""Real processes side by side: their order, their number, failures and signals."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from runs import finish, start
from star_training import messages
from star_training.engine.signals import Stopped
from star_training.studies.jobs import Failed, Job, run

WAIT = """
import pathlib, sys, time
begun = time.time(); time.sleep(0.4); pathlib.Path(sys.argv[1]).write_text(f"{begun} {time.time()}")
"""


def job(folder: Path, name: str, code: str) -> Job:
    return Job(name, [sys.executable, "-c", code, str(folder / f"{name}.txt")], folder / f"{name}.log")


def times(folder: Path) -> list[tuple[float, float]]:
    found = [tuple(map(float, path.read_text().split())) for path in sorted(folder.glob("*.txt"))]
    return [(begun, ended) for begun, ended in found]


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2)])
def test_so_many_run_at_once(tmp_path: Path, at_once: int, most: int):
    run([job(tmp_path, name, WAIT) for name in "abcd"], at_once)
    spans = times(tmp_path)
    assert len(spans) == 4
    assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) == most


def test_the_processors_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    code = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['OMP_NUM_THREADS'])"
    run([job(tmp_path, "a", code)], 2)
    assert (tmp_path / "a.txt").read_text() == "3"


def test_after_a_failure_nothing_is_begun_and_its_last_line_is_reported(tmp_path: Path):
    jobs = [job(tmp_path, "a", "print('first'); raise SystemExit('no room')"), job(tmp_path, "b", WAIT)]
    jobs.append(job(tmp_path, "c", WAIT))
    with pytest.raises(Failed, match=r"a ended with exit code 1; .*a\.log ends with:$") as failed:
        run(jobs, 2)
    assert failed.value.output == ["first", "no room"]
    assert (tmp_path / "b.txt").exists()  # what ran beside it was let finish
    assert not (tmp_path / "c.log").exists()


POLITE = """
import signal, sys, time, pathlib
def asked(number, frame):
    pathlib.Path(sys.argv[1]).write_text(str(number)); sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, asked)
print("ready", flush=True); time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_handed_on_and_waited_for(tmp_path: Path, number: int):
    jobs = [job(tmp_path, name, POLITE) for name in "abc"]

    def send() -> None:
        while not all(
            (tmp_path / f"{name}.log").exists() and "ready" in (tmp_path / f"{name}.log").read_text() for name in "ab"
        ):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Stopped) as stopped:
        run(jobs, 2)
    sender.join()
    assert stopped.value.exit_code == 128 + number
    assert {name: (tmp_path / f"{name}.txt").read_text() for name in "ab"} == dict.fromkeys("ab", str(number))
    assert not (tmp_path / "c.log").exists()


def test_output_is_added_to_what_an_earlier_try_said(tmp_path: Path):
    for _ in range(2):
        run([job(tmp_path, "a", "print('hello')")], 1)
    assert (tmp_path / "a.log").read_text() == "hello\nhello\n"


def test_the_progress_shows_no_line_of_an_earlier_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(messages, "_SILENCE", 0.05)
    (tmp_path / "a.log").write_text("stopped by SIGINT\n")
    run([job(tmp_path, "a", "import time; time.sleep(0.5)")], 1)
    lines = capsys.readouterr().err.splitlines()
    assert {line.rpartition(" (")[0] for line in lines} == {"0 of 1 runs are done; a: starting"}


FOLLOWING = """
import signal, sys, time
from star_training.engine.signals import StopRequest, end_with_parent
with StopRequest() as stop:
    end_with_parent()
    print("ready", flush=True)
    while not stop.signal:
        time.sleep(0.05)
print(f"stopped by {stop.signal}", flush=True)
"""
PARENT = """
import sys
from pathlib import Path
from star_training.studies.jobs import Job, run
run([Job("a", [sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))], 1)
"""


def test_a_job_stops_when_its_parent_is_killed(tmp_path: Path):
    log = tmp_path / "a.log"
    parent = start([FOLLOWING, str(log)], program=("-c", PARENT))

    def wait_for(line: str) -> None:
        deadline = time.monotonic() + 60
        while not (log.exists() and line in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    wait_for("ready")
    time.sleep(0.2)  # nothing ends it as long as the parent lives
    assert log.read_text() == "ready\n"
    parent.kill()
    wait_for(f"stopped by {int(signal.SIGTERM)}")
    finish(parent)
