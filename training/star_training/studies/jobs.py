"""Commands side by side, each in a process of its own with its output in a file."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..engine.signals import Stopped, StopRequest

_PAUSE = 0.2  # seconds between looks
_SHOWN = 5  # last lines of a failed job's output


class Job(NamedTuple):
    """What to run, what to call it, and where its output goes."""

    name: str
    command: Sequence[str]
    output: Path


class Failed(OSError):
    """A job ended with an error; the others were let finish."""


def run(jobs: Sequence[Job], at_once: int) -> None:
    """Runs all jobs in their order, so many at once, each with its share of the processors.

    After a failure no further job is begun. Raises Failed with the first failed one's last lines, and Stopped where a
    signal came, which the jobs were told and have obeyed.
    """
    waiting, running = list(jobs), _Running(max(1, (os.cpu_count() or 1) // at_once))
    failed: list[tuple[Job, int]] = []
    with StopRequest() as stop, running:
        while len(running) or (waiting and not failed and not stop.signal):
            if stop.signal:
                running.tell(stop.signal)
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
        raise Failed(f"{job.name} ended with exit code {code}; {job.output} says:\n" + "\n".join(lines))


class _Running:
    """The jobs that have been started and have not ended; killed where this is left before they end."""

    def __init__(self, threads: int):
        self._processes: dict[str, tuple[Job, subprocess.Popen]] = {}
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._told = False

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> "_Running":
        return self

    def __exit__(self, *_: object) -> None:
        for _, process in self._processes.values():
            process.kill()
            process.wait()

    def start(self, job: Job) -> None:
        """In a session of its own: Ctrl-C reaches it through `tell` alone, once."""
        print(f"{job.name} ...", flush=True)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with job.output.open("ab") as output:
            self._processes[job.name] = (
                job,
                subprocess.Popen(
                    job.command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                ),
            )

    def tell(self, number: int) -> None:
        """Hands a signal on, the first time."""
        if not self._told:
            for _, process in self._processes.values():
                process.send_signal(number)
        self._told = True

    def ended(self) -> list[tuple[Job, int]]:
        """Those that have ended since the last call, with their exit codes."""
        found = [(job, code) for job, process in self._processes.values() if (code := process.poll()) is not None]
        for job, code in found:
            del self._processes[job.name]
            print(f"{job.name}: {'done' if code == 0 else f'ended with exit code {code}'}", flush=True)
        return found
