"""An evaluation whose features are in the cache reads no image and creates no network, and notices every change."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from content_cases import KINDS, rows
from data_cases import birds
from runs import PACKAGES
from star_training.cli.main import main
from star_training.data import contents
from star_training.data.eval_sets.dataset import Splits
from star_training.data.sources.base import DataError
from star_training.data.sources.open import open_undecoded
from star_training.data.sources.parquet_rows import Encoded
from star_training.evaluation import frozen_model
from star_training.evaluation.frozen_model import FrozenModel, Recognised, load
from star_training.evaluation.record import evaluate
from star_training.models import identity
from star_zoo import save_pretrained
from twins import backbone

DECODE = importlib.import_module("star_training.data.decode.images")


@pytest.fixture(autouse=True)
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are as old as files usually are; the store is empty."""
    monkeypatch.setattr(contents, "_SETTLED", -1.0)
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_pretrained(tmp_path / "model", backbone(pretrained_cfg_overlay={"input_size": (3, 32, 32)}))


def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        pytest.fail("an image is read")

    monkeypatch.setattr(DECODE, "_opened", refused)
    monkeypatch.setattr(Encoded, "rows", property(refused))
    monkeypatch.setattr(frozen_model, "_create", lambda *_: pytest.fail("a network is created"))


@pytest.mark.parametrize("kind", ["folder", "parquet", "tar", "saved", "torchvision, files"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_second_evaluation_reads_no_image(
    kind: str, streamed: bool, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    if streamed:
        monkeypatch.setattr("star_training.data.sources.open._expected_bytes", lambda *_: 2**40)
    spec = KINDS[kind](tmp_path / "data", rows(12))
    command = ["eval", "knn", str(saved), "--data", spec]
    printed = []
    for again in (False, True):
        if again:
            monkeypatch.setattr("star_training.data.intact._intact", set())  # as in another process
            no_images(monkeypatch)
        assert main(command) == 0
        printed.append(re.sub(r"\(\d+ s\)", "", capsys.readouterr().out))
    assert printed[0] == printed[1] and "1-NN top-1" in printed[0]


PROGRAM = """
import sys
from star_training.cli.main import main

code = main(sys.argv[1:])
heavy = {"timm", "torchvision", "star_zoo", "sklearn", "scipy", "accelerate", "matplotlib", "pandas"}
print(code, *sorted(heavy & sys.modules.keys()))
"""


def test_a_second_process_imports_no_package_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = str(birds(tmp_path))  # with a column of splits
    command = ["eval", "knn", "star_resnet10t", "--data", spec]
    assert main(command) == 0
    time.sleep(max(0.0, tmp_path.stat().st_mtime + 2.2 - time.time()))  # until the files count as settled
    assert main(command) == 0
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        env=os.environ | {"PYTHONPATH": PACKAGES},
        capture_output=True,
        text=True,
    ).stdout
    assert printed.splitlines()[-1] == "0", printed


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_images_that_do_not_decode_are_remembered(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = [row._replace(image=row.image[:40]) if k == 3 else row for k, row in enumerate(rows(200))]
    spec = KINDS[kind](tmp_path / "data", images)
    with pytest.warns(UserWarning, match="1 of the"):
        found = Splits(spec).train
    tries: list[object] = []
    opened = DECODE._opened
    monkeypatch.setattr(DECODE, "_opened", lambda encoded: (tries.append(encoded), opened(encoded))[1])
    with pytest.warns(UserWarning, match="1 of the"):
        again = Splits(spec).train
    assert len(tries) <= 1 and again.fingerprint == found.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_images_are_not_taken_for_those_that_were_there_when_the_set_was_opened(tmp_path: Path):
    for kind in ("folder", "parquet", "tar"):
        spec = KINDS[kind](tmp_path / kind, rows())
        open_undecoded(spec)
        later = open_undecoded(spec)  # it is known that all images decode; they are not decoded yet
        changed = rows()
        changed[0], changed[2] = changed[2], changed[0]
        KINDS[kind](tmp_path / kind, changed)
        with pytest.raises(DataError, match="changed while it was in use"):
            later[0]


# Every change is noticed: the features and the results are those of an evaluation that has no cache


def swap(values: torch.Tensor) -> torch.Tensor:
    return values.roll(1, 0) if values.ndim else values


def other_weights(model: Path, data: Path) -> None:
    path = model / "model.safetensors"
    save_file({name: swap(t).contiguous() for name, t in load_file(path).items()}, path, {"format": "pt"})


def other_size(model: Path, data: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 40, 40]
    (model / "config.json").write_text(json.dumps(config))


def other_statistics(model: Path, data: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (model / "config.json").write_text(json.dumps(config))


def other_image(model: Path, data: Path) -> None:
    (data / "a" / "0.png").write_bytes(rows(90)[80].image)


def other_label(model: Path, data: Path) -> None:
    (data / "a" / "0.png").rename(data / "b" / "x.png")


def fewer_images(model: Path, data: Path) -> None:
    (data / "b" / "1.png").unlink()


@pytest.mark.parametrize(
    "change", [other_weights, other_size, other_statistics, other_image, other_label, fewer_images]
)
def test_a_change_is_noticed(change, saved: Path, tmp_path: Path):
    spec, cache = KINDS["folder"](tmp_path / "data", rows(24)), tmp_path / "cache"

    def measured(cache: Path | None) -> tuple[FrozenModel, dict, torch.Tensor]:
        model, splits = load(str(saved), cache=cache), Splits(spec)
        return model, evaluate("knn", model, splits).to_dict(), model.labelled(splits.train).features

    before = measured(cache)
    unchanged = measured(cache)
    assert isinstance(unchanged[0], Recognised) and torch.equal(unchanged[2], before[2])
    change(saved, tmp_path / "data")
    after = measured(cache)
    shutil.rmtree(tmp_path / "home")
    fresh = measured(None)
    assert torch.equal(after[2], fresh[2])
    assert after[1]["metrics"] == fresh[1]["metrics"]
    keys = ("model_fingerprint", "data_fingerprint")
    assert [after[1][key] for key in keys] == [fresh[1][key] for key in keys] != [before[1][key] for key in keys]


def test_other_packages_code_and_environment_are_another_model(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def known() -> str | None:
        return identity.identity(frozen_model.parse(str(saved)))

    first = known()
    assert first == known() is not None
    with monkeypatch.context() as patched:
        patched.setenv("TIMM_FUSED_ATTN", "0")
        assert known() != first
    with monkeypatch.context() as patched:
        patched.setattr(identity, "version", lambda package: "0")
        assert known() != first
    monkeypatch.setattr(identity, "code", lambda *packages: "other code")
    assert known() != first
    for name in ("untrained:test_resnet", "test_resnet", "hf-hub:owner/name", "concat:test_resnet+test_resnet"):
        assert identity.identity(frozen_model.parse(name)) is None


def test_a_model_that_changes_while_it_is_in_use_is_refused(saved: Path):
    load(str(saved))
    model = load(str(saved))
    assert isinstance(model, Recognised)
    other_weights(saved, saved)
    with pytest.raises(ValueError, match="model changed while it was in use; start again"):
        _ = model.backbone
    with pytest.raises(AttributeError):
        _ = model.nothing
