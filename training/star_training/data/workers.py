"""Loads batches in workers: an exception in a worker ends the run with one line, and no worker outlives the batches.

Workers ignore SIGINT, SIGTERM and SIGHUP, because a signal to the whole process group, or to all processes of a cluster
job, must not end them while the run finishes its step. Therefore workers that don't exit when asked are killed.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import LoadingError, unexpected
from ..messages import RESUME
from .sources.base import DataError, Source, decodes_on_access

T = TypeVar("T")

_END = object()
_FEW = 256  # images; the start of workers takes longer than loading fewer
_PARTS = 16  # of a batch, which workers send one by one in `load_once`, because shared memory may be small
_PATIENCE = 1.0  # seconds that a worker has to finish its work before it is killed
_FEWER = "use fewer workers with --set run.workers=N (eval and compare: --workers N)"
_GO_ON = f"and {RESUME}; start eval and compare again"


class Loads(Protocol):
    """A data set whose examples are collated to batches."""

    def __getitem__(self, key: Any) -> Any: ...

    def describe(self, key: Any) -> str:
        """Returns the origin of the example's image, for messages."""


@dataclass(frozen=True)
class Failure:
    """An exception that takes the place of a batch, as text, because not every exception can be pickled or rebuilt."""

    line: str
    trace: str
    bad_data: bool  # whether it is a DataError, whose message is complete

    @classmethod
    def of(cls, error: Exception, where: str) -> "Failure":
        """Returns the failure to load the image that `where` describes, "" if it was not a single image."""
        if isinstance(error, DataError):
            line = str(error)
        elif isinstance(error, MemoryError):
            line = f"out of memory while loading {where or 'a batch'}; {_FEWER} or a smaller batch_size, {_GO_ON}"
        else:
            line = f"can't load {where or 'a batch'}: {unexpected(error)}"
        return cls(line, traceback.format_exc(), isinstance(error, DataError))

    def error(self) -> Exception:
        """Returns the exception to raise in the main process."""
        return DataError(self.line) if self.bad_data else LoadingError(self.line)


class Batches(Dataset[Any]):
    """Maps a list of keys to the batch that `collate` returns for their examples, or to the `Failure` to load it."""

    def __init__(self, examples: Loads, collate: Callable[[list[Any]], Any]):
        self.examples, self.collate = examples, collate

    def __getitem__(self, keys: list[Any]) -> Any:
        where = None
        try:
            examples = []
            for where in keys:
                examples.append(self.examples[where])
            where = None
            return self.collate(examples)
        except Exception as error:
            return Failure.of(error, "" if where is None else self.examples.describe(where))


def batches(dataset: Dataset[Any], keys: Iterable[Any] | None, workers: int, pin: bool) -> Generator[Any, None, None]:
    """Yields `dataset[key]` for each of the keys; without keys, yields the items of an iterable dataset.

    Raises DataError or LoadingError in place of a `Failure`. Closing the generator ends its workers.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_begin,
        generator=torch.Generator(),  # draws from the global one would change a resumed run's dropout
    )
    iterator = iter(loader)
    # at the exit of any process, also a child of multiprocessing, which itself sends SIGTERM and waits for ever
    at_exit = Finalize(None, _kill, [getattr(iterator, "_workers", ())], exitpriority=0)
    try:
        while (batch := _next(iterator)) is not _END:
            if isinstance(batch, Failure):
                raise batch.error() from RuntimeError(batch.trace)
            yield batch
    finally:
        at_exit.cancel()
        _end(iterator)


def useful_workers(source: Source, workers: int) -> int:
    """Returns the number of workers for one pass over a source: 0 for few images, and for images in memory."""
    return workers if decodes_on_access(source) and len(source) >= _FEW else 0


def useful_beside(device: torch.device) -> int:
    """Returns the number of workers for a training on a device, by the cores that this process may use.

    A CPU computes a step for much longer than one core makes its views, and its cores are the training's too: on
    recipes for CPUs, loading takes 0.7 to 13 % of the processor time. An accelerator gets all cores but one, up to 12.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of the training on this machine, by the launcher
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(usable // local, 1)
    return min(cores // 2, 2) if device.type == "cpu" else min(max(cores - 1, 1), 12)


def load_once(
    examples: Loads,
    collate: Callable[[list[Any]], T],
    join: Callable[[list[T]], T],
    keys: Sequence[Sequence[Any]],
    workers: int,
) -> Generator[T, None, None]:
    """Yields the batch of each list of keys, in order; the number of workers does not change it.

    Batches are loaded in parts: `collate` takes the examples of a part, and `join` the parts of a batch. Without
    workers, errors of `examples` are raised as they are; else as in `batches`.
    """
    part = max(1, max(map(len, keys), default=0) // _PARTS)
    parts = [some[start : start + part] for some in keys for start in range(0, len(some), part)]
    with contextlib.closing(
        batches(Batches(examples, collate), parts, workers, pin=False)
        if workers
        else (collate([examples[key] for key in some]) for some in parts)
    ) as loaded:
        for some in keys:
            yield join([next(loaded) for _ in range(0, len(some), part)])


def _next(iterator: Iterator[Any]) -> Any:
    try:
        return next(iterator, _END)
    except Exception as error:  # e.g. a ConnectionResetError, if a worker ended while it sent a batch
        raise _lost(error) from error


@contextlib.contextmanager
def loading(batches: Generator[T, None, None]) -> Iterator[Generator[T, None, None]]:
    """Closes the batches at the end. Raises OSError if one of their workers was killed.

    torch's handler of SIGCHLD raises a RuntimeError anywhere in the main process, not only in `next`.
    """
    try:
        with contextlib.closing(batches):
            yield batches
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # torch has no class for this error
            raise
        raise _lost(error) from error


def _lost(error: Exception) -> OSError:
    reason = " ".join(str(error).split()).split(". ")[0]  # torch's further sentences are about its own arguments
    return OSError(
        f"a worker that loads images was killed or can't be reached ({reason}); memory, shared memory (/dev/shm) or "
        f"open files (ulimit -n) may be short: {_FEWER}, {_GO_ON}"
    )


def _unchanged(batch: T) -> T:
    return batch


def _begin(worker: int) -> None:
    """Prepares a worker."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)  # torch's handlers print a line, and the main process reports it anyway
    # if a batch can't be sent, the queue prints a traceback and the main process waits for ever; so the worker exits
    setattr(Queue, "_on_queue_feeder_error", staticmethod(lambda error, batch: os._exit(1)))  # noqa: B010
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """Ends this worker when the main process ends, even in the middle of a batch, because that may be killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _end(iterator: Any) -> None:
    """Asks an iterator's workers to exit, and kills those that are still busy after `_PATIENCE` seconds."""
    if not (processes := getattr(iterator, "_workers", None)):
        return
    timer = threading.Timer(_PATIENCE, _kill, [processes])
    timer.start()
    with contextlib.suppress(RuntimeError):  # torch's error about the killed workers
        iterator._shutdown_workers()
    timer.cancel()
    timer.join()


def _kill(processes: Iterable[Any]) -> None:
    for process in processes:
        process.kill()
