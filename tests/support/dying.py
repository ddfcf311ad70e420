"""Runs a command line that sends itself a signal before its K-th change of the file system.

    dying.py K SIGNAL FILE HOME COMMAND

A change is a file that is opened for writing, renamed or removed, or a folder that is made or removed. With K = 0 no
signal comes. FILE gets the number of changes of a command that ends; HOME, unless it is empty, is its STAR_ZOO_HOME.
Every state in which a kill can leave the files is that before a change, unless it comes within a write.
"""

import os
import sys
from pathlib import Path
from typing import Any

from star_training.cli.main import main
from star_training.engine.signals import exiting

_CHANGES = {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def changes(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is a change."""
    if event == "open":
        path, _, flags = arguments
        return bool(flags & _WRITES) and not str(path).startswith("/dev/")
    return event in _CHANGES


def run(at: int, number: int, file: Path, command: list[str]) -> int:
    """The exit code of a command, if it has one."""
    made = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal made
        if changes(event, arguments):
            made += 1
            if made == at:
                os.kill(os.getpid(), number)

    sys.addaudithook(count)
    code = main(command)
    exiting(code)  # as the program does
    file.write_text(str(made))
    return code


if __name__ == "__main__":
    if sys.argv[4]:
        os.environ["STAR_ZOO_HOME"] = sys.argv[4]
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[5:]))
