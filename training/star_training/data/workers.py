"""Batches from processes that load them: an exception in one ends the run in one line, and none outlives the batches.

The processes ignore SIGINT and SIGTERM, because a signal for the whole process group, or for all processes of a job on
a cluster, must not end them while the run finishes its step. Therefore SIGKILL ends those that don't leave when asked.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import unexpected
from .sources.base import DataError

T = TypeVar("T")

_END = object()
_PATIENCE = 1.0  # seconds that a process has to finish its work before it is killed


class LoadingError(RuntimeError):
    """An exception that no one expected ended the loading of images; the message is one line."""


class Loads(Protocol):
    """A data set whose examples make batches."""

    def __getitem__(self, key: Any) -> Any: ...

    def describe(self, key: Any) -> str:
        """Returns the place of the example's image, for messages."""


@dataclass(frozen=True)
class Failure:
    """An exception in place of a batch, as text, because not every exception can be pickled or made again."""

    line: str
    trace: str
    bad_data: bool  # a DataError, whose message needs nothing added

    @classmethod
    def of(cls, error: Exception, where: str) -> "Failure":
        """Returns the failure of loading the image that `where` describes, "" if it was not a single one."""
        if isinstance(error, DataError):
            line = str(error)
        elif isinstance(error, MemoryError):
            way_out = "give fewer loading processes with --set run.workers=N or a smaller batch_size"
            line = f"no memory is left to load {where or 'a batch'}; {way_out}, and go on with --resume"
        else:
            line = f"can't load {where or 'a batch'}: {unexpected(error)}"
        return cls(line, traceback.format_exc(), isinstance(error, DataError))

    def error(self) -> Exception:
        """Returns the exception to raise in the main process."""
        return DataError(self.line) if self.bad_data else LoadingError(self.line)


class Batches(Dataset[Any]):
    """A list of keys -> the batch that `collate` makes of their examples, or the `Failure` to make it."""

    def __init__(self, examples: Loads, collate: Callable[[list[Any]], Any]):
        self.examples, self.collate = examples, collate

    def __getitem__(self, keys: list[Any]) -> Any:
        where = None
        try:
            found = []
            for where in keys:
                found.append(self.examples[where])
            where = None
            return self.collate(found)
        except Exception as error:
            return Failure.of(error, "" if where is None else self.examples.describe(where))


def batches(dataset: Dataset[Any], keys: Iterable[Any] | None, workers: int, pin: bool) -> Generator[Any, None, None]:
    """Yields what the dataset makes of each of the keys, or all that it yields where it has none.

    Raises DataError or LoadingError in place of a `Failure`. Closing the generator ends its processes.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_begin,
        generator=torch.Generator(),  # or it would draw from the global one, and a resumed run's dropout would differ
    )
    iterator = iter(loader)
    try:
        while (batch := _next(iterator)) is not _END:
            if isinstance(batch, Failure):
                raise batch.error() from RuntimeError(batch.trace)
            yield batch
    finally:
        _end(iterator)


def _next(iterator: Iterator[Any]) -> Any:
    try:
        return next(iterator, _END)
    except Exception as error:  # such as a ConnectionResetError, where a process ended while it sent a batch
        raise _lost(error) from error


@contextlib.contextmanager
def loading(batches: Generator[T, None, None]) -> Iterator[Generator[T, None, None]]:
    """Closes the batches at the end. Raises OSError where one of their processes was killed.

    torch's handler of SIGCHLD raises that from whatever the main process does at the time, not from `next` alone.
    """
    try:
        with contextlib.closing(batches):
            yield batches
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # torch has no error of its own for that
            raise
        raise _lost(error) from error


def _lost(error: Exception) -> OSError:
    said = " ".join(str(error).split()).split(". ")[0]  # what torch adds is about its own arguments
    return OSError(
        f"a process that loads images was killed or can't be reached ({said}); memory, shared memory (/dev/shm) or "
        "open files (ulimit -n) may be short: give fewer of them with --set run.workers=N, and go on with --resume"
    )


def _unchanged(batch: T) -> T:
    return batch


def _begin(worker: int) -> None:
    """Prepares a loading process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)  # torch's handlers print a line, and the main process reports it anyway
    # a batch that can't be sent is printed as a traceback and then waited for in vain, unless the process ends
    setattr(Queue, "_on_queue_feeder_error", staticmethod(lambda error, batch: os._exit(1)))  # noqa: B010
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """Ends this process with the main one, which may be killed, even in the middle of a batch."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _end(iterator: Any) -> None:
    """Asks an iterator's processes to leave, and kills those that are still busy after a while."""
    if not (processes := getattr(iterator, "_workers", None)):
        return
    timer = threading.Timer(_PATIENCE, _kill, [processes])
    timer.start()
    with contextlib.suppress(RuntimeError):  # torch's, about the processes that were killed
        iterator._shutdown_workers()
    timer.cancel()
    timer.join()


@atexit.register  # later than multiprocessing's own, and so called earlier: that one sends SIGTERM and waits for ever
def _end_all() -> None:
    _kill(multiprocessing.active_children())


def _kill(processes: Iterable[Any]) -> None:
    for process in processes:
        process.kill()
