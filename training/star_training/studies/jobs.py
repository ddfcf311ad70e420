"""Runs commands in parallel, each in its own process with its output in a file.

The standard input of a command is a pipe that stays open, without data, as long as this process lives; see
`engine.signals.end_with_parent`.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..engine.signals import Stopped, StopRequest
from ..messages import busy, quiet, say

_PAUSE = 0.2  # seconds between polls
_STOPPING = "stopping the running jobs, each once it has saved its progress; a second signal ends them at once"
_SHOWN = 5  # last output lines of a failed job that its error shows


class Job(NamedTuple):
    """A command, its name in messages, and the file for its output."""

    name: str
    command: Sequence[str]
    output: Path


class Failed(OSError):
    """A job failed; the other running jobs have finished. `output` holds its last lines."""

    def __init__(self, message: str, output: Sequence[str]):
        super().__init__(message)
        self.output = output


def run(jobs: Sequence[Job], at_once: int) -> None:
    """Runs all jobs in order, at most `at_once` at a time, each with its share of the processors.

    No further job starts after a failure. Raises Failed with the last output lines of the first failed job. Raises
    Stopped after a signal, which was forwarded to the running jobs and has ended them.
    """
    waiting, running = list(jobs), _Running(max(1, (os.cpu_count() or 1) // at_once))
    failed: list[tuple[Job, int]] = []
    with StopRequest(_STOPPING) as stop, running, busy(lambda: running.line(len(jobs), len(waiting))):
        while len(running) or (waiting and not failed and not stop.signal):
            if stop.signal:
                running.signal(stop.signal)
            elif waiting and not failed and len(running) < at_once:
                running.start(waiting.pop(0))
                continue
            time.sleep(_PAUSE)
            failed += [(job, code) for job, code in running.ended() if code]
        if stop.signal:
            raise Stopped(stop.signal, "")
    if failed:
        job, code = failed[0]
        lines = job.output.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:]
        raise Failed(f"{job.name} ended with exit code {code}; {job.output} ends with:", lines)


class _Running:
    """The running jobs; those that still run when the context exits are killed."""

    def __init__(self, threads: int):
        self._processes: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        self._earlier: dict[str, int] = {}  # bytes of a job's output that an earlier call wrote
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._signalled = False

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> "_Running":
        return self

    def __exit__(self, *_: object) -> None:
        for _, process in self._processes.values():
            process.kill()
            process.wait()
            _forget(process)

    def start(self, job: Job) -> None:
        """Starts a job in its own session, so that Ctrl-C reaches it only once, through `signal`."""
        say(f"{job.name} ...")
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with job.output.open("ab") as output:
            self._earlier[job.name] = output.tell()
            self._processes[job.name] = (
                job,
                subprocess.Popen(
                    job.command,
                    stdin=subprocess.PIPE,  # which ends with this process, even if it is killed
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                ),
            )

    def line(self, total: int, waiting: int) -> str:
        """Returns the progress as text: "3 of 20 runs are done; star_8-0: step 12 of 100, ..."."""
        last = [
            f"{name}: {_last_line(job.output, self._earlier[name])}"
            for name, (job, _) in self._processes.copy().items()
        ]
        return "; ".join([f"{total - waiting - len(last)} of {total} runs are done", *last])

    def signal(self, number: int) -> None:
        """Forwards a signal to all running jobs; later calls do nothing."""
        if not self._signalled:
            for _, process in self._processes.values():
                process.send_signal(number)
        self._signalled = True

    def ended(self) -> list[tuple[Job, int]]:
        """Returns the jobs that have ended since the last call, with their exit codes."""
        found = [(job, code) for job, process in self._processes.values() if (code := process.poll()) is not None]
        for job, code in found:
            _forget(self._processes.pop(job.name)[1])
            if code or not quiet():
                print(f"{job.name}: {'done' if code == 0 else f'ended with exit code {code}'}", flush=True)
        return found


def _forget(process: subprocess.Popen[bytes]) -> None:
    """Closes the standard input of a process that has ended."""
    assert process.stdin
    process.stdin.close()


def _last_line(output: Path, begin: int) -> str:
    """Returns the last line of a job's output after `begin` bytes."""
    with output.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").split("\r")[-1].splitlines()
    return lines[-1] if lines else "starting"
