"""Full fine-tuning: what is learned, what is written, what is refused. Letters: B images, C classes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import timm
import torch
from PIL import Image

from data_cases import png, write_parquet
from finetune_cases import coloured, tiny
from runs import entries
from star_training.cli.main import main
from star_training.data import BadImageWarning, DataError
from star_training.data.sources.open import open_undecoded
from star_training.engine.optim import learning_rate
from star_training.evaluation import metrics as metric
from star_training.evaluation.features import extract
from star_training.finetuning.config import FineTune
from star_training.finetuning.run import FineTuning
from star_zoo import save_pretrained

# What is learned, and what comes out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> tuple[Path, dict[str, Any]]:
    """A fine-tuning from a saved folder that learned the colours, and its record."""
    where = tmp_path_factory.mktemp("finished")
    torch.manual_seed(3)
    start = timm.create_model(
        "test_resnet", num_classes=0, pretrained_cfg_overlay={"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6)}
    )
    save_pretrained(where / "start", start, results={"training": {"steps": 7}})
    made = tiny(images, "epochs=6", "optimizer.lr=0.1", "optimizer.warmup_epochs=1", model=str(where / "start"))
    return where, FineTuning(made, where / "out").train()


def accuracy_by_timm(export: Path, images: Path) -> metric.Estimate:
    """The share that the exported classifier predicts correctly, by nothing but timm."""
    model = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    hits = []
    for path in sorted((images / "test").rglob("*.png")):
        with torch.no_grad():
            scores = model(transform(Image.open(path))[None])
        hits.append(model.pretrained_cfg["label_names"][int(scores.argmax())] == path.parent.name)
    return metric.share(torch.tensor(hits))


def test_a_classifier_learns_and_plain_timm_loads_it(finished, images: Path):
    where, made = finished
    found = made.metrics["finetune_top1"]
    assert found.value > 0.9
    model = timm.create_model(f"local-dir:{where / 'out' / 'export'}", pretrained=True).eval()
    assert model.num_classes == 3
    assert model.pretrained_cfg["label_names"] == ["blue", "green", "red"]
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], tuple(config["mean"])) == ((3, 32, 32), (0.4, 0.5, 0.6))
    assert accuracy_by_timm(where / "out" / "export", images) == found.estimate


def test_the_record_stands_in_the_export_and_in_the_models_own_folder(finished, images: Path):
    where, made = finished
    written = made.to_dict()
    assert json.loads(json.dumps(written)) == written
    exported = json.loads((where / "out" / "export" / "results.json").read_text())
    own = json.loads((where / "start" / "results.json").read_text())
    assert exported["evaluations"] == own["evaluations"] == [written]
    assert own["training"] == {"steps": 7}
    assert (made.protocol, made.model, made.data) == ("finetune", "start", images.name)
    assert str(where) not in json.dumps(written) and str(images.parent) not in json.dumps(
        written
    )  # records are published
    assert made.images == {"train": 48, "test": 24} and made.data_fingerprint.keys() == {"train", "test"}
    assert FineTune.from_dict(made.settings).epochs == 6
    assert [epoch for epoch, _ in made.details["top-1 by epoch"]] == [1, 2, 3, 4, 5, 6]
    assert made.details["top-1 by epoch"][-1][1] == made.metrics["finetune_top1"].value


def test_the_record_knows_the_model_by_the_fingerprint_that_evaluations_give_it(finished):
    from star_training.evaluation.frozen_model import load

    where, made = finished
    assert made.model_fingerprint == load(str(where / "start")).fingerprint


def test_the_export_is_a_start_for_the_next(finished, images: Path, tmp_path: Path):
    where, _ = finished
    made = FineTuning(tiny(images, "epochs=1", "optimizer.lr=0", model=str(where / "out")), tmp_path / "next").train()
    assert made.images["train"] == 48


def test_a_log_holds_each_step_and_each_epochs_accuracy(finished):
    where, _ = finished
    losses = entries(where / "out", "loss")
    assert [e["step"] for e in losses] == [*range(1, 37)]
    assert losses[-1]["loss"] < losses[0]["loss"]
    peak = 0.1 * 8 / 256
    assert [e["lr"] for e in losses] == pytest.approx([learning_rate(k, 36, 6, peak) for k in range(36)])
    assert [e["step"] for e in entries(where / "out", "top1")] == [6, 12, 18, 24, 30, 36]


def test_it_starts_from_the_models_weights(finished, images: Path, tmp_path: Path):
    where, _ = finished
    begun = timm.create_model(f"local-dir:{where / 'start'}", pretrained=True, num_classes=0).state_dict()
    FineTuning(tiny(images, "epochs=1", "optimizer.lr=0", model=str(where / "start")), tmp_path / "out").train()
    ended = timm.create_model(f"local-dir:{tmp_path / 'out' / 'export'}", pretrained=True).state_dict()
    for name, tensor in begun.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(ended[name], tensor), name
    assert ended.keys() - begun.keys() == {"fc.weight", "fc.bias"}


@pytest.fixture
def other_precision() -> Iterator[None]:
    """Accelerate keeps one precision for a process; within this, a fine-tuning may have another."""
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)


def test_everything_at_once_runs_and_loads(images: Path, tmp_path: Path, other_precision):
    changes = (
        "mixup=0.8", "cutmix=1", "ema=0.99", "precision=bf16", "views.jitter=0.4", "views.flip=0", "run.eval_every=0",
        'backbone_args={"drop_path_rate": 0.1}', "optimizer.name=sgd", "data.fraction=0.5", "run.workers=1",
    )  # fmt: skip
    made = FineTuning(tiny(images, *changes, model="untrained:test_vit"), tmp_path / "out").train()
    assert [(m.slug, m.name) for m in made.metrics.values()] == [
        ("finetune_top1_50pct", "Fine-tuning top-1, 50 % of the labels")
    ]
    assert made.protocol == "finetune 0.5" and made.images == {"train": 24, "test": 24}
    assert len(made.details["top-1 by epoch"]) == 1  # the last is always measured
    model = timm.create_model(f"local-dir:{tmp_path / 'out' / 'export'}", pretrained=True)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    (found,) = made.metrics.values()
    assert accuracy_by_timm(tmp_path / "out" / "export", images) == found.estimate  # measured in float32


def test_images_that_do_not_decode_are_neither_trained_nor_measured_on(tmp_path: Path, monkeypatch):
    """No other image stands in for them under their labels, although images are decoded on access."""
    folder = coloured(tmp_path / "images", 24, 12)
    for name in ("train/blue/000.png", "test/blue/000.png", "test/red/005.png"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    monkeypatch.setitem(open_undecoded.__kwdefaults__, "cache_bytes", 0)
    with pytest.warns(BadImageWarning) as warned:
        tuning = FineTuning(tiny(folder, "data.max_bad=0.5"), tmp_path / "out")
    assert len(warned) == 2 and (len(tuning.images), len(tuning.test)) == (23, 10)
    assert tuning._accuracy() == metric.share(
        extract(tuning._kept, tuning.test, tuning.view).argmax(1) == tuning.test.targets
    )
    (folder / "test/red/002.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 image of .*002\.png, but they did at first"):
        tuning._accuracy()


# The command


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["finetune", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_can_not_be_fine_tuned_ends_in_one_line(images: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(images)]
    small = ["--set", "views.size=32", "--set", "batch_size=8"]
    assert "model 'nosuchnet' can't be loaded" in refusal(capsys, "nosuchnet", *data, *small)
    assert "pixels have no weights to fine-tune" in refusal(capsys, "pixels", *data, *small)
    assert "test_vit' doesn't take images of 33 pixels" in refusal(
        capsys, "untrained:test_vit", *data, *small, "--set", "views.size=33"
    )
    assert "optimizer.name 'adamww' not found; did you mean 'adamw'?" in refusal(
        capsys, "untrained:test_resnet", *data, *small, "--set", "optimizer.name=adamww"
    )
    assert "'missing' doesn't exist" in refusal(capsys, "untrained:test_resnet", "--data", "missing")
    pack = write_parquet(tmp_path / "x.parquet", image=[png(1)], label=[0], split=["test"])
    assert "needs a train split and a test split" in refusal(
        capsys, "untrained:test_resnet", "--data", str(pack), *small
    )
    pack.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_ends_in_one_line(images: Path, tmp_path: Path, capsys):
    arguments = ["untrained:test_resnet", "--data", str(images), "--out", str(tmp_path / "out")]
    for change in (
        "views.size=32",
        "batch_size=8",
        "run.workers=0",
        "precision=no",
        "optimizer.lr=1e38",
        "optimizer.name=sgd",
    ):
        arguments += ["--set", change]
    assert "Try a lower optimizer.lr" in refusal(capsys, *arguments)


def test_a_finished_command_says_what_it_found_and_how_to_load_it(images: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["finetune", "untrained:test_resnet", "--data", str(images), "--fraction", "0.5"]
    for change in ("views.size=32", "batch_size=8", "epochs=1", "run.workers=0", "precision=no"):
        words += ["--set", change]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    *_, found, load = lines
    assert [line for line in lines if "images of" in line] == [lines[0]] and lines[0].startswith(f"{images}: ")
    assert found.startswith(f"untrained:test_resnet on {images.name}: Fine-tuning top-1, 50 % of the labels ")
    assert load.startswith(f"exported to runs/finetune-untrained-test_resnet-{images.name}-0.5/export: ")
    assert eval(load.partition(": ")[2], {"timm": timm}).num_classes == 3
