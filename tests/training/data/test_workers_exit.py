"""No worker outlives its process, and none keeps it from ending, though workers ignore SIGTERM."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from star_training.data.workers import batches


class Numbers:
    """Maps an index to the process that loads it."""

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def leave_open(end: Connection) -> None:
    """Sends the process of a worker, and returns without closing the batches, which a cycle keeps alive."""
    loaded = [batches(Numbers(), range(1000), 1, pin=False)]  # type: ignore[arg-type]
    loaded.append(loaded)  # type: ignore[arg-type]
    end.send(next(loaded[0]))


def in_a_child(do: Callable[[Connection], None]) -> tuple[int | None, int]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=do, args=(there,))
    process.start()
    worker = here.recv()
    process.join(20)
    code = process.exitcode
    process.kill()
    return code, worker


def test_a_child_of_multiprocessing_ends_with_its_workers():
    code, worker = in_a_child(leave_open)
    assert code == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
