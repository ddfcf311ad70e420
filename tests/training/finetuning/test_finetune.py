"""Full fine-tuning: what is learned, what is written, what is refused. Letters: B images, C classes."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import Mixup
from torch import Tensor, nn

from data_cases import png, write_parquet
from finetune_cases import coloured, tiny
from runs import TWO, entries, finish, start
from star_training.cli.main import main
from star_training.data import BadImageWarning, DataError
from star_training.data.sources.open import open_undecoded
from star_training.engine.optim import learning_rate
from star_training.evaluation import metrics as metric
from star_training.evaluation.features import extract
from star_training.finetuning.config import FineTune
from star_training.finetuning.model import Learner, build, build_optimizer
from star_training.finetuning.run import FineTuning
from star_zoo import Batch, Policy, save_pretrained
from star_zoo.augmentations import Crop
from twins import photos


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"))


def learner(*changes: str, net: nn.Module | None = None, classes: int = 3) -> Learner:
    made = tiny("nowhere", *changes)
    policy = Policy((Crop(32),), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return Learner(net or nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes)), policy, made, classes)


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
    """What the exported classifier tells right, by nothing but timm."""
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


def test_a_log_tells_each_step_and_each_epochs_accuracy(finished):
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
    with pytest.warns(BadImageWarning) as told:
        tuning = FineTuning(tiny(folder, "data.max_bad=0.5"), tmp_path / "out")
    assert len(told) == 2 and (len(tuning.images), len(tuning.test)) == (23, 10)
    assert tuning._accuracy() == metric.share(
        extract(tuning._kept, tuning.test, tuning.view).argmax(1) == tuning.test.targets
    )
    (folder / "test/red/002.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 image of .*002\.png, but they did at first"):
        tuning._accuracy()


# A step


def one_view_of(images: torch.Tensor, params: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch([images], [params], torch.arange(len(images)), torch.full((len(images), 2), 32), labels)


def test_the_loss_is_the_smoothed_cross_entropy():
    module = learner("smoothing=0.2", classes=4)
    images, params, labels = photos(5, 32, 32), torch.zeros(5, 4), torch.tensor([0, 3, 1, 1, 2])
    found = module(one_view_of(images, params, labels), 0, 0)
    x = (images.double() / 255 - 0.5) / 0.2
    logits = copy.deepcopy(module.net).double()(x)
    wanted = F.one_hot(labels, 4) * 0.8 + 0.2 / 4
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup=0.4", "cutmix=1"])
def test_mixtures_are_timms_with_a_seed_of_their_own(kind: str):
    module = learner(kind, "smoothing=0.1")
    images, params, labels = photos(6, 32, 32), torch.zeros(6, 4), torch.arange(6) % 3
    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr, index]
    x, wanted = module.batch(images, params, labels, 5, 0)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr, index]
    again = module.batch(images, params, labels, 5, 0)
    assert torch.equal(again[0], x) and torch.equal(again[1], wanted)
    for step, rank in ((6, 0), (5, 1)):
        assert not torch.equal(module.batch(images, params, labels, step, rank)[1], wanted)
    assert not torch.equal(learner(kind, "seed=1").batch(images, params, labels, 5, 0)[1], wanted)

    alphas = [float(kind.partition("=")[2]) * kind.startswith(name) for name in ("mixup", "cutmix")]
    peer = Mixup(*alphas, label_smoothing=0.1, num_classes=3)
    np.random.seed(np.random.SeedSequence((0, 5, 0)).generate_state(4))
    mixed, soft = peer(module.policy.apply(images, params), labels)
    assert torch.equal(mixed, x) and torch.equal(soft, wanted)
    logits = module.net(x)
    expected = -(soft * logits.log_softmax(1)).sum(1).mean()
    assert module(one_view_of(images, params, labels), 5, 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_layers_near_the_images_learn_more_slowly(images: Path, tmp_path: Path, monkeypatch):
    rates: list[dict[str, float]] = []
    original = FineTuning._train_step

    def step(self: FineTuning, *args: Any) -> None:
        original(self, *args)
        names = {id(p): name for name, p in self.net.named_parameters()}
        rates.append({names[id(p)]: group["lr"] for group in self.optimizer.param_groups for p in group["params"]})

    monkeypatch.setattr(FineTuning, "_train_step", step)
    tuning = FineTuning(tiny(images, "epochs=1", "optimizer.layer_decay=0.5", "optimizer.lr=0.1"), tmp_path / "out")
    tuning.train()
    for number, found in enumerate(rates):
        rate = learning_rate(number, 6, 12, 0.1 * 8 / 256)
        assert found["fc.weight"] == pytest.approx(rate)
        assert found["conv1.0.weight"] <= rate / 16
        depth = math.log2(rate / found["layer2.0.conv1.weight"])
        assert depth == pytest.approx(round(depth), abs=1e-6) and depth >= 1


def test_without_layer_decay_all_layers_learn_alike(images: Path):
    made = tiny(images, "optimizer.layer_decay=null")
    net, _ = build(made, 3)
    groups = build_optimizer(made, net, torch.device("cpu")).param_groups
    assert {group.get("lr_scale", 1.0) for group in groups} == {1.0}
    assert sorted(group["weight_decay"] for group in groups) == [0, 0.05]


def test_averaged_weights_are_what_is_measured_and_exported(images: Path, tmp_path: Path, monkeypatch):
    average: dict[str, Tensor] = {}
    original = FineTuning._train_step

    def step(self: FineTuning, *args: Any) -> None:
        original(self, *args)
        k = self.step - 1
        decay = 0.0 if k == 0 else min(0.6, 1 - (1 + k) ** (-2 / 3))
        for name, tensor in self.net.state_dict().items():
            if tensor.is_floating_point():
                new = tensor.double()
                average[name] = decay * average[name] + (1 - decay) * new if name in average else new

    monkeypatch.setattr(FineTuning, "_train_step", step)
    tuning = FineTuning(tiny(images, "ema=0.6", "optimizer.lr=0.1"), tmp_path / "out")
    tuning.train()
    exported = timm.create_model(f"local-dir:{tmp_path / 'out' / 'export'}", pretrained=True).state_dict()
    for name, expected in average.items():
        torch.testing.assert_close(exported[name].double(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(exported["fc.weight"], tuning.net.state_dict()["fc.weight"])


def test_an_epochs_images_are_a_permutation_with_their_own_labels(images: Path, tmp_path: Path):
    tuning = FineTuning(tiny(images), tmp_path / "out")
    for packed in tuning.batches(range(tuning.steps)):
        (view,), _, _, _, labels = packed.batch()
        assert view.shape == (8, 3, 32, 32)
        brightest = view.float().mean((2, 3)).argmax(1)  # of red, green, blue
        assert torch.equal(2 - brightest, labels)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(images: Path, tmp_path: Path):
    changes = (
        "views.size=32",
        "epochs=1",
        "batch_size=8",
        "run.workers=0",
        "precision=no",
        "run.log_every=1",
        "optimizer.lr=0.1",
    )
    arguments = ["finetune", "untrained:test_vit", "--data", str(images), "--out", str(tmp_path / "two")]
    for change in changes:
        arguments += ["--set", change]
    process = start(arguments, program=(*TWO, "-m", "star_training"))
    FineTuning(tiny(images, *changes, model="untrained:test_vit"), tmp_path / "one").train()
    code, told, err = finish(process)
    assert code == 0, err
    assert told.count("exported to") == 1
    ones, twos = entries(tmp_path / "one"), entries(tmp_path / "two")
    assert [e["loss"] for e in twos] == pytest.approx([e["loss"] for e in ones], rel=1e-4)


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
