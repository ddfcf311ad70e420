"""Code in a process of its own, for which a loopback Hub is the Hub.

huggingface_hub reads its environment once, when it is imported; so each client is a fresh process. It is forked from
one that has imported the packages that do not import the client, because that takes the time.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

from loopback_hub import LoopbackHub

ROOT = Path(__file__).parents[2]
_fork = multiprocessing.get_context("forkserver")


def client(
    hub: LoopbackHub, home: Path, code: str, *args: str, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a process for which `hub` is the Hub and warnings are errors; with `check`, it must succeed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))} | hub.env(home) | env
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        process = _fork.Process(target=_run, args=(textwrap.dedent(code), args, environment, out, err))
        process.start()
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
        done = subprocess.CompletedProcess(args, process.exitcode or 0, out.read_text(), err.read_text())
    assert not check or done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def _run(code: str, args: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    """What `python -c CODE ARGS` does, in a process that was just forked."""
    assert "huggingface_hub" not in sys.modules
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = ["-c", *args]
    sys.path[:0] = [str(ROOT), str(ROOT / "training")]
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)  # how the client itself sends large files
    exec(compile(code, "<client>", "exec"), {"__name__": "__main__"})
