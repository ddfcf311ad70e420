"""Steps of fine-tuning: the loss, mixtures, layer decay, averaged weights, the order of images, two processes."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from finetune_cases import tiny
from runs import TWO, entries, finish, start
from star_training.engine.optim import learning_rate
from star_training.finetuning.model import Learner, build, build_optimizer
from star_training.finetuning.run import FineTuning
from star_zoo import Batch, Policy
from star_zoo.augmentations import Crop
from twins import photos


def learner(*changes: str, net: nn.Module | None = None, classes: int = 3) -> Learner:
    made = tiny("nowhere", *changes)
    policy = Policy((Crop(32),), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return Learner(net or nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes)), policy, made, classes)


def one_view_of(images: torch.Tensor, params: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch([images], [params], torch.arange(len(images)), torch.full((len(images), 2), 32), labels)


def test_weights_of_five_dimensions_keep_their_layout():
    """channels_last is a format of four dimensions; LambdaNetworks have weights of five."""
    flat, deep = nn.Conv2d(3, 4, 3), nn.Conv3d(2, 2, 3)
    learner(net=nn.Sequential(flat, deep))
    assert flat.weight.is_contiguous(memory_format=torch.channels_last) and deep.weight.is_contiguous()


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
    code, out, err = finish(process)
    assert code == 0, err
    assert out.count("exported to") == 1
    ones, twos = entries(tmp_path / "one"), entries(tmp_path / "two")
    assert [e["loss"] for e in twos] == pytest.approx([e["loss"] for e in ones], rel=1e-4)
