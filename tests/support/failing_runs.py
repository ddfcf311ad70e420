"""Commands in which the loading of images fails: each is a process of its own, forked from one that has all imports.

Run as a program it reads one JSON line per command: the fault to put in, the arguments, a folder for stderr. It prints
the process, and when that has ended its exit code. A process leads a group of its own, and ends as Python ends.
"""

import functools
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch.utils.data

from runs import PACKAGES
from star_training.cli.execute import parser
from star_training.cli.main import main
from star_training.data import cached, views
from star_training.detection import run as detection_run  # noqa: F401
from star_training.detection import views as detection_views
from star_training.finetuning import run as finetuning_run  # noqa: F401


class Strange(Exception):
    """An exception that neither a pickle nor its message makes again."""

    def __init__(self, number: int, *, lock: object):
        super().__init__(f"number {number}\nsecond line")
        self.lock = lock


def strange() -> None:
    raise Strange(7, lock=threading.Lock())


def missing() -> None:
    raise KeyError("a")


def out_of_memory() -> None:
    raise MemoryError


def leave() -> None:
    os._exit(3)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def no_shared_memory() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def busy() -> None:
    """One of two processes fails while the other is in the middle of something long."""
    if torch.utils.data.get_worker_info().id == 0:
        raise RuntimeError("the other one is busy")
    time.sleep(1000)


def failing(function: Callable[..., Any], act: Callable[[], object], calls: int, moment: Path) -> Callable[..., Any]:
    """A function that acts first, from its `calls`th call in a process on, and writes down the moment."""
    before = iter(range(calls - 1))

    @functools.wraps(function)
    def wrapped(*args: Any, **settings: Any) -> Any:
        if next(before, None) is None:
            if not moment.exists():
                moment.write_text(str(time.time()))
            act()
        return function(*args, **settings)

    return wrapped


def put_in(place: str, act: str, moment: Path) -> None:
    """Makes the program fail: `place` names what calls the function `act`."""
    do = globals()[act]
    if place == "image":  # behind what looks at a few images before the training
        views.open_image = failing(views.open_image, do, 12, moment)
        detection_views.fit = failing(detection_views.fit, do, 3, moment)
    elif place == "collate":
        views.stack = failing(views.stack, do, 3, moment)  # two calls look at a few images before the training
        detection_views.list = failing(list, do, 2, moment)  # the collating function there
    elif place == "load":
        cached.load = failing(cached.load, do, 2, moment)
    elif place == "decode":
        decode = sys.modules["star_training.data.decode.images"]
        decode._pixels = failing(decode._pixels, do, 3, moment)


class Outcome(NamedTuple):
    """The end of a command."""

    code: int
    lines: list[str]  # of stderr
    reported: float  # seconds from the failure to the line
    ended: float  # and to the end of the process
    left: list[int]  # processes of its group that live on


class Runs:
    """The process that all commands are forked from."""

    def __init__(self, place: Path):
        self.place = place
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "PYTHONWARNINGS": "error,ignore:This DataLoader will create",
                "PYTHONPATH": PACKAGES,
            },
        )
        self._read()  # it has imported everything

    def run(self, place: str, act: str, arguments: list[str]) -> Outcome:
        """Runs a command in which `act` is called from `place`, at most 60 seconds."""
        (self.place / "moment").unlink(missing_ok=True)
        assert self.process.stdin
        self.process.stdin.write(json.dumps([place, act, arguments, str(self.place)]) + "\n")
        self.process.stdin.flush()
        group = self._read()
        code = self._read()
        errors, moment = self.place / "stderr", float((self.place / "moment").read_text())
        reported, ended = errors.stat().st_mtime - moment, time.time() - moment
        return Outcome(code, errors.read_text().splitlines(), reported, ended, members(group))

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()

    def _read(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(") ")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def serve() -> None:
    print(0, flush=True)
    for line in sys.stdin:
        place, act, arguments, folder = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(f"{folder}/stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            put_in(place, act, Path(folder, "moment"))
            sys.exit(main(arguments))
        print(child, flush=True)
        deadline = time.monotonic() + 60
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.01)
        print(os.waitstatus_to_exitcode(ended[1]), flush=True)


if __name__ == "__main__":
    parser()  # imports the modules of all commands
    gc.freeze()  # a collection in a forked process would copy all pages
    serve()
