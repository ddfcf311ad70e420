"""The parser of the command line, and how a command ends: its exit code and its one line."""

import argparse
import importlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from star_catalog.names import not_found
from star_catalog.printing import as_typed, printable
from star_catalog.version import version
from star_catalog.zoo import NotAvailable

from .. import benchmarks
from ..engine.signals import Stopped
from ..errors import Diverged, LoadingError, not_installed, unexpected
from ..messages import NORMAL, detail, duration, noted, verbosity
from . import COMMANDS, Listing, declare_verbosity


def execute(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. An error prints one line, unless Python is in development mode."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, began = argparse.Namespace(), time.monotonic()
    try:
        _check_names(words)
        _, rest = parser().parse_known_args(words, arguments)
        if rest:
            arguments.refuse(f"unrecognized arguments: {' '.join(rest)}")  # with the usage of the command
        with verbosity(arguments.verbosity), noted():
            arguments.module.run(arguments)
            detail(f"took {duration(time.monotonic() - began)}")
    except Stopped as stopped:
        again = as_typed(*_program(), *arguments.module.go_on(arguments, words, stopped.folder))
        print(f"\n{printable(stopped.reason)}; go on with: {again}", file=sys.stderr)
        return stopped.exit_code
    except ImportError as error:
        return _failed(not_installed(error) or str(error))
    except (ValueError, OSError, NotAvailable, Diverged) as error:
        return _failed(str(error), *getattr(error, "output", ()))
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        said = error if isinstance(error, LoadingError) else f"unexpected {unexpected(error)}"
        return _failed(f"{said}; PYTHONDEVMODE=1 shows the traceback")
    return 0


def _failed(message: str, *output: str) -> int:
    """Prints an error, and the last lines of a failed process; returns the exit code."""
    print(f"star-zoo: {printable(message)}", *map(printable, output), sep="\n", file=sys.stderr)
    return 1


def _check_names(words: Sequence[str]) -> None:
    """Raises ValueError for an unknown command or benchmark, with the most similar one."""
    noun, known = "command", tuple(COMMANDS)
    if words[:1] == ["bench"]:
        words, noun, known = words[1:], "benchmark", benchmarks.known()
    if words and not words[0].startswith("-") and words[0] not in known:
        raise ValueError(not_found(noun, words[0], known))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; each stores its module as `module`."""
    top = argparse.ArgumentParser(
        prog="star-zoo",
        description="Pretrain, evaluate, store and publish image backbones with their heads.",
        formatter_class=Listing,
    )
    top.add_argument("--version", action="version", version=f"star-zoo {version()}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for name, group in COMMANDS.items():
        module = importlib.import_module(f"{__package__}.{group}.{name}")
        assert module.__doc__
        command = subparsers.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.declare(command)
        declare_verbosity(command)
        command.set_defaults(module=module, refuse=command.error, verbosity=NORMAL)
    return top


def _program() -> list[str]:
    """Returns the words that started this program, as far as they are known: by a launcher, Python, or its name."""
    processes, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if processes > 1:
        nodes = ["--nnodes", str(processes // here)] if processes > here else []
        return ["torchrun", *nodes, "--nproc_per_node", str(here), "-m", "star_training"]
    started = Path(sys.argv[0])
    if started.parts[-2:] == ("star_training", "__main__.py"):
        return [sys.executable, "-m", "star_training"]
    return [str(started)] if started.name == "star-zoo" and not shutil.which("star-zoo") else ["star-zoo"]
