"""timm's own test_models.py, as shipped with the installed timm, run over every star_* model.

The tests come with timm's source archive, which is downloaded once into `~/.cache/star_zoo/timm_tests`
(`STAR_ZOO_TIMM_TESTS` names another folder). timm_suite/star_models_only.py points them at our models.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import timm

from runs import PACKAGES
from star_zoo.group_resnet import ARCHITECTURES

PLUGINS = Path(__file__).parent / "timm_suite"
CACHE = Path(os.environ.get("STAR_ZOO_TIMM_TESTS", "~/.cache/star_zoo/timm_tests")).expanduser()
MODELS = timm.list_models("star_*")
TAGS = timm.list_models("star_*", include_tags=True)
WHOLLY = [name for name in MODELS if name not in tuple(ARCHITECTURES)[1:]]  # see timm_suite/star_models_only.py

# What timm 1.0.31 runs on a ViT of its own; a CNN has two more. Fewer means that the filters no longer reach a model.
FEWEST_PASSED_PER_MODEL = 6


def download(folder: Path) -> Path:
    """timm's source archive of the installed version, put into `folder`; skips the test if it can't be had."""
    wanted = f"timm=={timm.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
    command = [*pip, "--no-deps", "--no-binary=timm", f"--dest={folder}", wanted]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=180)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr[-200:])
        pytest.skip(f"pip can't download the source archive of {wanted}: {reason}")
    (archive,) = folder.glob("timm-*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def timm_tests() -> Path:
    """A folder with timm's tests/ and nothing else: a timm/ beside it would shadow the installed one."""
    folder = CACHE / timm.__version__
    if not (folder / "tests" / "test_models.py").is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            with tarfile.open(download(Path(scratch))) as archive:
                members = [m for m in archive.getmembers() if Path(m.name).parts[1:2] == ("tests",)]
                archive.extractall(scratch, members, filter="data")
            folder.mkdir(exist_ok=True)
            (unpacked,) = Path(scratch).glob("timm-*/tests")
            unpacked.rename(folder / "tests")
    return folder


def run_suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run timm's test_models.py in a process of its own; its summary names what passed, failed or was skipped."""
    # GITHUB_ACTIONS makes timm leave tests out and TIMEOUT changes its limits; the others are meant for our own tests.
    dropped = ("GITHUB_ACTIONS", "TIMEOUT", "PYTEST_ADDOPTS", "PYTHONWARNINGS")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    path = [PACKAGES, str(PLUGINS), *filter(None, [env.get("PYTHONPATH")])]
    # One thread: on busy cores, threads that wait for each other take several times longer.
    env |= {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # An empty config file, since our own makes warnings errors; timm's tests warn (TorchScript is deprecated).
    pytest_ = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider"]
    shown = ["-q", "-rpfEs", "--tb=short", "--disable-warnings"]
    command = [*pytest_, *arguments, "-p", "star_models_only", *shown, "tests/test_models.py"]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=env, timeout=1200)


@pytest.mark.slow  # about a minute
def test_every_star_model_passes_timms_own_tests(timm_tests):
    done = run_suite(timm_tests)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    passed = re.findall(r"^PASSED tests/test_models\.py::(\w+)\[(?:\d+-)?(\S+)\]", done.stdout, re.MULTILINE)
    count = Counter(name.partition(".")[0] for _, name in passed)
    assert {name: count[name] for name in WHOLLY if count[name] < FEWEST_PASSED_PER_MODEL} == {}
    for test in ("test_model_default_cfgs", "test_model_load_pretrained"):  # these run on every tag
        assert {name for passing, name in passed if passing.removesuffix("_non_std") == test} == set(TAGS)


@pytest.mark.slow  # the start of timm's tests, about ten seconds
def test_the_suite_notices_a_wrong_row(timm_tests):
    done = run_suite(timm_tests, "-p", "wrong_pool_size", "-k", "test_model_default_cfgs and star_resnet10t")
    assert done.returncode == 1, done.stdout[-5000:] + done.stderr[-5000:]
    assert "FAILED tests/test_models.py::test_model_default_cfgs[1-star_resnet10t.cifar10]" in done.stdout
    assert "unpooled feature shape" in done.stdout
