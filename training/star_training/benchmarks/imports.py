"""Importing star_zoo and loading a model by its tag, compared with timm alone, each in a new process.

timm loads the same file into its own architecture. The two alternate; a ratio is the median over the rounds of the
ratio within a round. In each round, commands that import neither run too, as whole processes. The first round is
dropped, because it compiles bytecode and fills the file cache.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from star_catalog import tags
from star_catalog.names import folders

from .pretrain.rounds import ratio

_MODEL = "resnet10t"  # its weights are in the package
_LOADS = {
    "star_zoo": f"timm.create_model('star_{_MODEL}', pretrained=True)",
    "timm": (
        f"timm.create_model('{_MODEL}', pretrained=True, num_classes=0, "
        "pretrained_cfg_overlay=dict(file=sys.argv[1], num_classes=0))"
    ),
}
_COMMANDS = ("--help", "list")  # of star-zoo
_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import {package}
imported = time.perf_counter()
import timm
model = {load}
print(json.dumps({{"import": imported - start, "load": time.perf_counter() - imported}}))
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    parser.add_argument("--rounds", type=int, default=15, help="processes of each (default: %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the comparison. Raises ValueError for fewer than one round."""
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}; it must be at least 1")
    from .pretrain.machine import machine

    found: dict[str, Any] = {"machine": machine(), "model": f"star_{_MODEL}"}
    file = weights()
    by_round, of_commands = zip(*[(_round(k, file), _commands()) for k in range(arguments.rounds + 1)][1:], strict=True)
    for what, spoken in (("import", "import star_zoo"), ("load", f"loading star_{_MODEL}")):
        seconds = [{package: each[package][what] for package in _LOADS} for each in by_round]
        found[what] = {"seconds": seconds, "ratio": ratio(seconds, "star_zoo", "timm")}
        ours, timms = (statistics.median(each[package] for each in seconds) for package in _LOADS)
        times, least, most = found[what]["ratio"].values()
        spread = f"({least:.3f} to {most:.3f} over the rounds)"
        print(f"{spoken:24}{ours:7.3f} s, timm {timms:7.3f} s: {times:.3f} times as long {spread}", flush=True)
    found["commands"] = {command: [each[command] for each in of_commands] for command in _COMMANDS}
    for command, took in found["commands"].items():
        spread = f"({min(took):.3f} to {max(took):.3f} over the rounds)"
        print(f"{f'star-zoo {command}':24}{statistics.median(took):7.3f} s {spread}", flush=True)
    return found


def weights() -> Path:
    """Returns the file that both load. Raises ValueError if it would have to be downloaded."""
    found = tags.place(f"star_{_MODEL}")
    if not isinstance(found, Path):
        raise ValueError(f"the weights of star_{_MODEL} are not on this machine, but in {found}; install them")
    return found / "model.safetensors"


def _round(number: int, file: Path) -> dict[str, dict[str, float]]:
    packages = list(_LOADS) if number % 2 else list(reversed(_LOADS))
    return {package: measure(package, file) for package in packages}


def _commands() -> dict[str, float]:
    return {command: start(command) for command in _COMMANDS}


def start(command: str) -> float:
    """Returns the seconds of a whole process that runs a command of star-zoo."""
    before = time.perf_counter()
    run_python("-m", "star_training", command)
    return time.perf_counter() - before


def measure(package: str, file: Path) -> dict[str, float]:
    """Returns the seconds of "import" and "load" in a new process."""
    return json.loads(run_python("-c", _PROGRAM.format(package=package, load=_LOADS[package]), str(file)))


def run_python(*arguments: str) -> str:
    """Returns the output of a new Python that finds the same packages."""
    ours = [str(Path(folder).parent) for package in ("star_zoo", "star_training") for folder in folders(package)]
    places = [*ours, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout
