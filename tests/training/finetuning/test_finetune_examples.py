"""The two ways to fine-tune without star-zoo that training/README.md shows: timm's own train.py, and plain PyTorch.

timm's train.py comes with no package: it is looked for in `~/.cache/star_zoo/timm_tests/VERSION` and else downloaded
into it from timm's repository (`STAR_ZOO_TIMM_TESTS` names another folder).
"""

import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_dataset, resolve_data_config
from timm.models import safe_model_name

from finetune_cases import COLOURS, PLAIN, TRAIN, coloured
from star_zoo import save_pretrained

CACHE = Path(os.environ.get("STAR_ZOO_TIMM_TESTS", "~/.cache/star_zoo/timm_tests")).expanduser()
SOURCE = f"https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{timm.__version__}/train.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images and the saved model that the examples name."""
    where = tmp_path_factory.mktemp("reader")
    coloured(where / "images", train=60)
    torch.manual_seed(0)
    overlay = {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.3, 0.2, 0.1), "crop_pct": 1.0}
    model = timm.create_model("test_resnet", num_classes=0, pretrained_cfg_overlay=overlay)
    save_pretrained(where / "star-zoo-quickstart/export", model)
    return where


def run(command: list[str], where: Path) -> str:
    """What a command prints, in a process that knows nothing of star-zoo."""
    dropped = ("PYTHONPATH", "PYTHONWARNINGS", "GITHUB_ACTIONS")
    env = {name: value for name, value in os.environ.items() if name not in dropped} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=where, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow  # about twelve seconds, most of it importing torch on a busy machine
def test_plain_pytorch_fine_tunes_a_saved_model(place: Path):
    assert len([line for line in PLAIN.splitlines() if line]) <= 25
    printed = run([sys.executable, "-W", "error", "-c", PLAIN], place)
    found = [float(share) for share in re.findall(r"epoch \d: ([\d.]+)% of the test images", printed)]
    assert len(found) == 5 and found[-1] > 60


def options() -> dict[str, str]:
    words = shlex.split(TRAIN)
    return {a.removeprefix("--"): b for a, b in zip(words, words[1:], strict=False) if a.startswith("--")}


def test_timm_makes_the_model_and_the_data_that_train_py_asks_for(place: Path, monkeypatch):
    monkeypatch.chdir(place)
    asked = options()
    name, classes = asked["model"], int(asked["num-classes"])
    others: dict[str, Any] = {"in_chans": 3, "drop_rate": 0.0, "scriptable": False, "checkpoint_path": ""}
    others |= dict.fromkeys(("drop_path_rate", "drop_block_rate", "global_pool", "bn_momentum", "bn_eps"))
    model = timm.create_model(name, pretrained=True, num_classes=classes, **others)
    saved = timm.create_model(name, pretrained=True).state_dict()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in saved.items())
    config = resolve_data_config({"img_size": None, "input_size": None, "mean": None, "std": None}, model=model)
    assert (config["input_size"], tuple(config["mean"]), tuple(config["std"])) == (
        (3, 32, 32), (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)
    )  # fmt: skip
    assert re.fullmatch(r"\w+", safe_model_name(name))  # names the output folder
    for split in ("train", asked["val-split"]):
        read = create_dataset("", root=asked["data-dir"], split=split)
        assert list(read.reader.class_to_idx) == list(COLOURS)
    # why --val-split is needed: its default, where there is no folder `validation`, takes all images, training ones too
    assert len(create_dataset("", root=asked["data-dir"], split="validation")) == 60 + 24


@pytest.fixture
def train_py() -> Path:
    """timm's train.py of the installed version; skips the test if it can't be had."""
    path = CACHE / timm.__version__ / "train.py"
    if not path.is_file():
        try:
            with urllib.request.urlopen(SOURCE, timeout=30) as answer:
                text = answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            pytest.skip(f"{SOURCE} can't be had: {error}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return path


@pytest.mark.slow
def test_timms_train_py_fine_tunes_a_saved_model(place: Path, train_py: Path):
    words = [sys.executable, str(train_py), *shlex.split(TRAIN)[2:]]
    changed = ["--epochs", "1", "--warmup-epochs", "0", "--workers", "0", "--experiment", "one"]
    if not torch.cuda.is_available():
        changed += ["--device", "cpu"]
    run([*words, *changed], place)  # the later of two values counts
    assert (place / "output/train/one/summary.csv").read_text().count("\n") == 2
    assert list((place / "output/train/one").glob("model_best*"))
