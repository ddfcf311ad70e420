"""Real processes in a fraction of a second: they are forked from a server that has imported everything already.

Importing torch and timm takes several seconds of processor time, which tests of many processes would pay every time.
A process is a group of its own with its own environment, folder and output. It is the child of a keeper, which reports
its end, because only a parent can wait for it, and which kills it if nobody listens any more.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Sequence
from pathlib import Path

_EARLY = ("HF_", "LD_", "MALLOC_", "OMP_", "PYTHON", "STAR_ZOO_")  # prefixes of variables that imports read
_LATE = {"PYTHONPATH", "PYTHONWARNINGS"}  # are applied again
_POLL = 0.02  # seconds
MODULES = (
    "accelerate", "pandas", "pyarrow.parquet", "scipy.special", "sklearn.linear_model", "tensorboard", "torchvision",
    "star_training.cli.execute", "star_training.cli.main", "star_training.data.sources.spirograph",
    "star_training.detection.run", "star_training.evaluation.record", "star_training.finetuning.run",
    "star_training.pretraining.run", "star_training.publishing.card", "star_training.publishing.markdown",
    "star_training.publishing.upload", "star_training.recipes.spirograph", "star_zoo.objectives.star",
)  # fmt: skip
# A program that stands for python where another program, e.g. torchrun, starts processes. It passes signals on, and
# it becomes a usual python if the process needs other early variables than the server's.
_PYTHON = """#!{executable} -SE
import json, os, signal, socket, sys

early = {{name: os.environ[name] for name in os.environ if name.startswith({prefixes}) and name not in {late}}}
if early != {early}:
    os.execv({executable!r}, [{executable!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    command = [word for word in sys.argv[1:] if word != "-u"]
    request = {{"command": command, "environment": dict(os.environ), "folder": os.getcwd()}}
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    lines = server.makefile()
    process = int(lines.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: os.kill(process, number))
    code = int(lines.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class Process:
    """The part of `subprocess.Popen` that tests of commands use."""

    def __init__(self, request: dict[str, object], address: str):
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address)
        with open(os.devnull) as nothing:
            files = [nothing.fileno(), self._out.fileno(), self._err.fileno()]
            socket.send_fds(self._server, [json.dumps(request).encode()], files)
        self.pid = self._number()
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code, negative for a signal. Raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = self._number()
        return self.returncode

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the process and returns its output and its errors. Raises TimeoutExpired."""
        self.wait(timeout)
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        self._server.close()
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        """Sends a signal if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _number(self) -> int:
        """Returns the next number that the keeper sends; a line may follow at once, so nothing is read ahead."""
        text = b""
        while not text.endswith(b"\n"):
            if not (byte := self._server.recv(1)):
                raise OSError(f"the server of processes ended after {text!r}")
            text += byte
        return int(text)


class Server:
    """Starts the server process, which imports modules first.

    Processes with other variables than its own must be started in the usual way.
    """

    def __init__(self, environment: dict[str, str], modules: Sequence[str] = MODULES):
        self.environment = environment
        self._place = tempfile.TemporaryDirectory()
        self._address = str(Path(self._place.name, "socket"))
        self.python = Path(self._place.name, "python")
        self.python.write_text(
            _PYTHON.format(
                executable=sys.executable, address=self._address, prefixes=_EARLY, late=_LATE, early=_early(environment)
            )
        )
        self.python.chmod(0o755)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._address)
        listening.listen(64)
        with listening:
            command = [sys.executable, __file__, str(listening.fileno()), str(self.python), *modules]
            self._process = subprocess.Popen(
                command, pass_fds=[listening.fileno()], env=environment, start_new_session=True
            )

    def fits(self, environment: dict[str, str]) -> bool:
        """Returns whether a process with these variables can be forked from the server."""
        return _early(self.environment) == _early(environment)

    def start(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> Process:
        """Starts `python COMMAND` in a folder; the command is a script, -m and a module, or -c and code."""
        request = {"command": list(command), "environment": environment, "folder": str(folder)}
        return Process(request, self._address)

    def close(self) -> None:
        """Ends the server."""
        self._process.kill()
        self._process.wait()
        self._place.cleanup()


def _early(environment: dict[str, str]) -> dict[str, str]:
    """Returns the variables that must be the server's own, because they are read before a program begins."""
    return {name: value for name, value in environment.items() if name.startswith(_EARLY) and name not in _LATE}


def _serve(listening: socket.socket) -> dict[str, object]:
    """Forks a keeper for each request, and returns the request in the process that is to run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no keeper is waited for
    parent = os.getppid()
    while True:
        while not select.select([listening], [], [], 1.0)[0]:
            if os.getppid() != parent:  # it was killed, without closing this server
                os._exit(0)
        asking, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            data, files, _, _ = socket.recv_fds(asking, 2**20, 3)
            if (child := os.fork()) == 0:
                break
            for file in files:
                os.close(file)
            _keep(child, asking)
            os._exit(0)
        asking.close()
    asking.close()
    os.setsid()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    return json.loads(data)


def _keep(child: int, asking: socket.socket) -> None:
    """Sends the number of a process, and its exit code once it has ended."""
    asking.sendall(f"{child}\n".encode())
    ended = 0
    while not ended:
        if select.select([asking], [], [], _POLL)[0]:  # closed, because nothing is ever sent
            os.kill(child, signal.SIGKILL)
            return
        ended, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(BrokenPipeError):
        asking.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _prepare() -> None:
    """Does what commands do once in a process, as far as it is imported: the parser, and the templates of cards."""
    if execute := sys.modules.get("star_training.cli.execute"):
        execute.parser()  # imports the modules of all commands
    if markdown := sys.modules.get("star_training.publishing.markdown"):
        markdown.environment().get_template("card.md.jinja")


def main() -> None:
    """Serves until it is killed; in a forked process, runs the command of a request."""
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        for name in sys.argv[3:]:
            __import__(name)
        _prepare()
        gc.freeze()  # a collection in a forked process would copy all pages
        request = _serve(listening)
    environment, folder = request["environment"], request["folder"]
    sys.executable = sys.argv[2]  # so that the processes that this one starts are forked too
    if (options := environment.get("PYTHONWARNINGS", "")) != os.environ.get("PYTHONWARNINGS", ""):
        warnings.resetwarnings()
        warnings._processoptions(filter(None, options.split(",")))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep), *sys.path[1:]]
    _end(_run(*request["command"]))


def _run(first: str, *rest: str) -> int:
    """Runs `python FIRST REST`, and returns its exit code."""
    try:
        if first == "-m":
            sys.argv = [*rest]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.argv = [first, *rest[1:]]
            sys.modules["__main__"] = module = types.ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), module.__dict__)
        else:
            sys.argv = [first, *rest]
            runpy.run_path(first, run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """Ends the process as Python does, but leaves the modules alone, whose teardown takes seconds after a fork."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
