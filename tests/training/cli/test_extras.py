"""Without the `train` extra: commands that need none of its modules work, the others say how to install it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from star_catalog import zoo
from star_training import errors
from star_training.cli import COMMANDS

MISSING = (  # and jinja2, which torch needs itself
    "accelerate",
    "matplotlib",
    "pyarrow",
    "sklearn",
    "scipy",
    "uniplot",
    "pycocotools",
)  # torchvision has the rest
MODEL = zoo.EMBEDDED / "star_resnet10t.cifar10"
WORK = [
    "list",
    f"install {MODEL} star_resnet10t.mine",
    "card star_resnet10t.cifar10",
    "export star_resnet10t.cifar10 --to torchscript --out home/star_resnet10t.ts",
    f"publish {MODEL} me/star_resnet10t --dry-run --out home/star_resnet10t",
]
NEED = {  # a command, and the module and the extra that it needs first
    "pretrain spirograph_tiny": ("accelerate", "train"),
    "finetune star_resnet10t --data nowhere": ("accelerate", "train"),
    "quickstart": ("accelerate", "train"),
    "detect star_resnet10t --data nowhere --out run": ("accelerate", "train"),
    "reproduce cifar10_small --data .": ("matplotlib", "train"),
    f"report {MODEL}": ("matplotlib", "train"),
    "eval regression pixels --data spirograph:60": ("sklearn", "train"),
}
OTHERS = {  # that find another fault before they need anything
    "compare pixels pixels --data nowhere": "doesn't exist",
    "convert nowhere --to-released new.pth": "'nowhere' doesn't exist",
    "bench imports --rounds 0": "--rounds",
    "curves nowhere": "nowhere holds no log.jsonl",
}
PROGRAM = """
import contextlib, importlib.machinery, io, json, sys

find, missing = importlib.machinery.PathFinder.find_spec, sys.argv[1].split()

def found(name, path=None, target=None):
    return None if name.partition(".")[0] in missing else find(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(found)
from star_training.cli.main import main

def end(line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line.split())
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), err.getvalue()

print(json.dumps({line: end(line) for line in sys.argv[2:]}))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit code, output and errors of each command, all in one process without the modules."""
    place = tmp_path_factory.mktemp("place")
    env = os.environ | {"STAR_ZOO_HOME": str(place / "home")}
    given = [" ".join(MISSING), *WORK, *NEED, *OTHERS]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *given], cwd=place, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in place.iterdir()} <= {"home"}  # no folder of a run that can't begin
    return json.loads(done.stdout)


def test_every_command_is_tried():
    tried = {line.split()[0] for line in (*WORK, *NEED, *OTHERS)}
    assert tried | {"embed"} == set(COMMANDS)  # which needs what the train extra holds


@pytest.mark.parametrize("line", WORK)
def test_a_command_works_without_the_extra(line: str, ends):
    code, out, err = ends[line]
    assert (code, err) == (0, "") and "star_resnet10t" in out


@pytest.mark.parametrize("line", NEED)
def test_a_command_that_needs_the_extra_says_how_to_install_it(line: str, ends):
    module, extra = NEED[line]
    said = f"star-zoo: {module} is not installed, which this command needs: pip install 'star-zoo[{extra}]'\n"
    code, _, err = ends[line]
    assert code == 1 and err.endswith(said) and err.count("star-zoo") == 2


@pytest.mark.parametrize("line", OTHERS)
def test_another_fault_comes_first(line: str, ends):
    code, _, err = ends[line]
    assert code == 1 and OTHERS[line] in err and err.count("\n") == 1


def test_every_module_of_the_extras_is_known():
    """Those of pyproject.toml, by the names that are imported."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    modules = {"scikit-learn": "sklearn", "pillow": "PIL"}
    for extra, known in errors._OF_EXTRAS.items():
        listed = ast.literal_eval(
            "[" + text.partition(f"\n{extra} = [")[2].partition("]\n")[0].rpartition('star-zoo[train]",')[2] + "]"
        )
        names = [requirement.partition(">")[0] for requirement in listed]
        assert [modules.get(name, name) for name in names] == list(known)
