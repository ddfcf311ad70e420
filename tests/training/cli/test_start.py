"""The command line starts at once: help, lists and wrong arguments import nothing heavy, and a signal is one line.

Modules are counted in fresh interpreters, since a time says little on a busy machine.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from star_catalog import zoo
from star_training import benchmarks
from star_training.cli import COMMANDS
from star_training.cli.main import main

HEAVY = {
    "accelerate", "datasets", "filelock", "huggingface_hub", "jinja2", "matplotlib", "numpy", "PIL", "pyarrow",
    "safetensors", "scipy", "sklearn", "star_zoo", "timm", "torch", "torchvision", "tqdm",
}  # fmt: skip
HELP = ["--help", *(f"{name} --help" for name in COMMANDS), *(f"bench {name} --help" for name in benchmarks.known())]
WRONG = {  # the arguments, and what the message must contain
    "": "required: COMMAND",
    "lisst": "command 'lisst' not found; did you mean 'list'? known: quickstart, ",
    "pretrain": "pass a recipe, or --resume with the folder of a run as --out; recipes: cifar10_resnet10t",
    "pretrain --resume": "--resume (resume=True) needs the folder of the run; pass it (--out, out=...)",
    "finetune resnet18": "pass a model, and labelled images (--data, data=...); or, to resume",
    "pretrain folder --resum-all": "unrecognized arguments: --resum-all",
    "pretrain folder --max-bad few": "invalid float value: 'few'",
    "pretrain foulder": "recipe 'foulder' not found; did you mean 'folder'? known: cifar10_resnet10t",
    "pretrain folder --objective starr": "objective 'starr' not found; did you mean 'star'? known: augself",
    "reproduce cifar10_smal": "study 'cifar10_smal' not found; did you mean 'cifar10_small'? known: backbones_small, ",
    "reproduce claims": "study 'claims' not found",  # a helper of the studies
    "detect resnet18": "pass a model, and the folder of the new run with --out; or --resume",
    "detect resnet18 --recipe coco25 --out run": "recipe 'coco25' not found; did you mean 'coco256'? known: coco256",
    "eval lineear resnet18": "protocol 'lineear' not found; did you mean 'linear'? known: equivariance",
    "compare resnet18 resnet34 --protocol knn kn": "protocol 'kn' not found; did you mean 'knn'?",
    "compare resnet18 resnet34 --seed one": "invalid int value: 'one'",
    "convert ckpt-1.pth --out new": "pass --recipe, e.g. stl10_resnet18",
    "convert ckpt-1.pth --out new --recipe stl10_resnet8": "did you mean 'stl10_resnet18'?",
    "bench dat": "benchmark 'dat' not found; did you mean 'data'? known: ",
    "bench imports --rounds 0": "--rounds is 0; it must be at least 1",
    "list all": "unrecognized arguments: all",
}
PROGRAM = """
import contextlib, io, json, sys
from star_training.cli.main import main

def end(line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line.split())
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), err.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})

print(json.dumps({line: end(line) for line in sys.argv[1:]}))
"""


def run(*command: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"STAR_ZOO_HOME": str(home)}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one installed model."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(zoo.EMBEDDED / "star_resnet10t.cifar10", home / "models" / "star_resnet10t.mine")
    return home


@pytest.fixture(scope="module")
def ends(home: Path) -> dict[str, tuple[int, str, str, list[str]]]:
    """Exit code, output, errors and packages imported so far of each line, all in one new process."""
    done = run("-c", PROGRAM, *HELP, "list", *WRONG, home=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", HELP)
def test_help_imports_nothing_heavy(line: str, ends):
    code, out, err, packages = ends[line]
    assert (code, err) == (0, "") and out.startswith(f"usage: star-zoo {line.removesuffix('--help')}".rstrip())
    assert HEAVY & set(packages) == set()


def test_list_imports_nothing_heavy(ends):
    code, out, err, packages = ends["list"]
    assert (code, err) == (0, "") and HEAVY & set(packages) == set()
    rows = {line.split()[0]: line.split()[1:5] for line in out.splitlines()}
    assert rows["star_resnet10t.mine"] == ["local", *rows["star_resnet10t.cifar10"][1:]]
    assert rows["star_resnet10t.cifar10"][0] == "embedded"


@pytest.mark.parametrize("line", WRONG)
def test_wrong_arguments_import_nothing_heavy(line: str, ends):
    code, out, err, packages = ends[line]
    assert code == (2 if err.startswith("usage: ") else 1) and out == "" and WRONG[line] in err
    assert HEAVY & set(packages) == set()


@pytest.mark.parametrize("line", ["--help", "list", "pretrain foulder"])
def test_a_process_takes_little_time(line: str, home: Path):
    """CPU seconds, which other processes hardly change; with torch it would take two at least."""
    run("-m", "star_training", *line.split(), home=home)  # compiles bytecode
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run("-m", "star_training", *line.split(), home=home)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6


# What a command imports when it runs

BASE = {
    "filelock",
    "huggingface_hub",
    "numpy",
    "PIL",
    "safetensors",
    "star_zoo",
    "timm",
    "torch",
    "torchvision",
    "tqdm",
}
RUNS = {  # beside what timm imports itself
    "card star_resnet10t.cifar10": {"jinja2"},
    "install nowhere star_resnet10t.mine": set(),
    "convert nowhere --to-released new.pth": set(),
    "eval knn star_resnet10t.cifar10 --data nowhere": set(),
    "compare star_resnet10t.cifar10 star_resnet10t.cifar10_simclr --data nowhere": set(),
}


def test_a_command_imports_what_it_uses(home: Path):
    """In the order of `RUNS`, each beside those before it."""
    done = run("-c", PROGRAM, *RUNS, home=home)
    assert done.returncode == 0, done.stderr
    allowed = set(BASE)
    for line, (_, _, err, packages) in json.loads(done.stdout).items():
        allowed |= RUNS[line]
        assert HEAVY & set(packages) <= allowed, (line, err)


# Signals

SIGNALLED = """
import os, sys
from star_training.cli.main import program

_, module, number = sys.argv
sys.argv[1:] = ["install", "nowhere", "star_resnet10t.mine"]

class Sends:
    # the signal once, when the module is about to be imported
    def find_spec(self, name, path, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number))

sys.meta_path.insert(0, Sends())
program()
"""
MODULES = {
    "typing": signal.SIGINT,  # which most modules import
    "star_training.engine.signals": signal.SIGINT,
    "star_training.cli.execute": signal.SIGTERM,
    "star_training.benchmarks": signal.SIGHUP,
    "torch": signal.SIGTERM,
    "numpy": signal.SIGINT,  # by torch, which clears all errors of this import
}


@pytest.mark.parametrize(("module", "number"), MODULES.items())
def test_a_signal_while_python_imports_is_one_line(module: str, number: int, home: Path):
    done = run("-c", SIGNALLED, module, str(int(number)), home=home)
    line = f"\nstopped by {signal.Signals(number).name}\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", line)


LATE = """
import atexit, os, signal
from star_training.cli.main import program
atexit.register(lambda: [os.kill(os.getpid(), n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)])
program()
"""


def test_a_signal_after_the_end_of_a_command_changes_nothing(home: Path):
    plain, late = run("-m", "star_training", "list", home=home), run("-c", LATE, "list", home=home)
    assert plain.returncode == 0 and len(plain.stdout) > 100
    assert (late.returncode, late.stdout, late.stderr) == (0, plain.stdout, "")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_the_handler_of_interrupts_is_as_before(handler: Any, capsys: pytest.CaptureFixture[str]):
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert main(["list"]) == 0
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_can_run_a_command(capsys: pytest.CaptureFixture[str]):
    with ThreadPoolExecutor(1) as other:
        assert other.submit(main, ["list"]).result() == 0
