"""Real processes in a tenth of a second: they are forked from a server that has imported everything already.

Importing torch and timm takes several seconds of processor time, which tests of many processes would pay every time.
A process is a group of its own with its own environment, folder and output. It is the child of a keeper, which reports
its end, because only a parent can wait for it.
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
from collections.abc import Sequence
from pathlib import Path

_IGNORED = {"PYTEST_CURRENT_TEST", "PYTHONPATH"}  # variables that nothing reads while it is imported
_MODULES = (
    "accelerate", "pandas", "pyarrow.parquet", "scipy.special", "sklearn.linear_model", "tensorboard", "torchvision",
    "star_training.cli.main", "star_training.detection.run", "star_training.evaluation.record",
    "star_training.finetuning.run", "star_training.pretraining.run", "star_training.publishing.upload",
)  # fmt: skip


class Process:
    """The part of `subprocess.Popen` that tests of commands use."""

    def __init__(self, request: dict[str, object], server: socket.socket):
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._status, theirs = socket.socketpair()
        with theirs:
            files = [self._out.fileno(), self._err.fileno(), theirs.fileno()]
            socket.send_fds(server, [json.dumps(request).encode()], files)
        self.pid = self._number()
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code, negative for a signal. Raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
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
        self._status.close()
        return texts[0], texts[1]

    def _number(self) -> int:
        """Returns the next number that the keeper sends; a line may follow at once, so nothing is read ahead."""
        text = b""
        while not text.endswith(b"\n"):
            if not (byte := self._status.recv(1)):
                raise OSError(f"the server of processes ended after {text!r}")
            text += byte
        return int(text)

    def send_signal(self, number: int) -> None:
        """Sends a signal if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Server:
    """Starts the server process; processes with other variables than its own must be started in the usual way."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True
            )

    def fits(self, environment: dict[str, str]) -> bool:
        """Returns whether a process with these variables can be forked from the server."""
        names = (self.environment.keys() | environment.keys()) - _IGNORED
        return all(self.environment.get(name) == environment.get(name) for name in names)

    def start(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> Process:
        """Starts `python COMMAND` in a folder; the command is a script, -m and a module, or -c and code."""
        request = {"command": list(command), "environment": environment, "folder": str(folder)}
        return Process(request, self._socket)

    def close(self) -> None:
        """Ends the server; its processes go on."""
        self._socket.close()
        self._process.wait()


def _serve(requests: socket.socket) -> dict[str, object] | None:
    """Forks a keeper for each request. Returns the request in the process to run it, None when there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no keeper is waited for
    while True:
        data, files, _, _ = socket.recv_fds(requests, 2**20, 3)
        if not data:
            return None
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (child := os.fork()) == 0:
                break
            with socket.socket(fileno=files[2]) as status:
                status.sendall(f"{child}\n".encode())
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                    status.sendall(f"{code}\n".encode())
            os._exit(0)
        for file in files:
            os.close(file)
    os.setsid()
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    for file in files:
        os.close(file)
    return json.loads(data)


def main() -> None:
    """Serves until the socket closes; in a forked process, runs the module as `python -m` does."""
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        for name in _MODULES:
            __import__(name)
        gc.freeze()  # a collection in a forked process would copy all pages
        request = _serve(requests)
    if request is None:
        return
    environment = request["environment"]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["folder"])
    sys.path[:] = [request["folder"], *environment.get("PYTHONPATH", "").split(os.pathsep), *sys.path[1:]]
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
