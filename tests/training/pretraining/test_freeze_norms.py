"""Frozen batch norms: they keep the statistics of the start through a run, and one process gives the steps by hand."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from runs import assert_equal, tiny, tiny_with
from star_training.pretraining.module import Pretrainer, build, check_backbone
from star_training.pretraining.run import Run
from star_zoo import Encoder, Policy, objectives, save_pretrained
from star_zoo.augmentations import Crop
from twins import randn

QUIET = ("run.eval_every=0", "epochs=1", "data.limit=16")


def used(name: str = "test_resnet") -> nn.Module:
    """A network whose batch norms have statistics of some images."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).train()
    with torch.no_grad():
        model(2 * randn(8, 3, 32, 32) + 1)
    return model


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers() if "running" in name or "tracked" in name}


@pytest.mark.parametrize("name", objectives.known())
def test_every_objective_trains_the_scales_and_keeps_the_statistics(name: str, tmp_path: Path):
    if objectives.find(name).needs_group:
        pytest.skip("the start is a plain network")
    start = used()
    save_pretrained(tmp_path / "start", start)
    settings = (*QUIET, f"init_from={tmp_path / 'start'}", "freeze_norms=true", "optimizer.weight_decay=0")
    Run(tiny_with(name, *settings), tmp_path / "run").train()
    end = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export'}", pretrained=True)
    assert_equal(statistics(end), statistics(start))
    if name != "canonicalization":  # trains no backbone
        moved = [bool((a != b).any()) for a, b in zip(end.parameters(), start.parameters(), strict=True)]
        assert any(moved)


def test_features_and_gradients_in_train_mode_are_those_of_eval_mode():
    model = used()
    encoder = Encoder(Policy((Crop(32),), (0.5,) * 3, (0.5,) * 3), copy.deepcopy(model))
    encoder.freeze_norms()
    views = [randn(4, 3, 32, 32), randn(4, 3, 32, 32, seed=1)]
    found = torch.cat(encoder.train()(views))
    expected = model.eval()(torch.cat(views))
    torch.testing.assert_close(found, expected)
    for features in (found, expected):
        features.square().sum().backward()
    for ours, theirs in zip(encoder.backbone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_only_the_backbones_batch_norms_are_frozen_and_copies_of_the_encoder_too():
    encoder = Encoder(Policy((Crop(32),), (0.5,) * 3, (0.5,) * 3), used())
    encoder.freeze_norms()
    for each in (encoder, copy.deepcopy(encoder)):
        for mode in (False, True):
            each.train(mode)
            norms = [module for module in each.modules() if isinstance(module, _BatchNorm)]
            assert norms and not any(norm.training for norm in norms)
            assert each.backbone.training == mode
    objective = objectives.build("simclr", 64, encoder.policy)
    pretrainer = Pretrainer(used(), objective)
    pretrainer.encoder.freeze_norms()
    pretrainer.train()
    heads = [module for module in pretrainer.objective.modules() if isinstance(module, _BatchNorm)]
    assert all(norm.training for norm in heads)


def test_it_needs_a_start_and_batch_norms(tmp_path: Path):
    alone = tiny("freeze_norms=true")
    for check in (build, check_backbone):
        with pytest.raises(ValueError, match="freeze_norms is true, but there is no start .* pass --init-from"):
            check(alone)
    save_pretrained(tmp_path, timm.create_model("test_convnext", num_classes=0))
    settings = ("freeze_norms=true", "backbone=test_convnext", f"init_from={tmp_path}")
    with pytest.raises(ValueError, match="ConvNeXt has no batch norm to freeze; leave freeze_norms out"):
        build(tiny(*settings))


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path):
    save_pretrained(tmp_path / "start", used())
    settings = (*QUIET, f"init_from={tmp_path / 'start'}", "freeze_norms=true", "run.checkpoint_every=1", "run.keep=9")
    Run(tiny(*settings), tmp_path / "whole").train()
    (tmp_path / "part" / "checkpoints").mkdir(parents=True)
    recipe = json.loads((tmp_path / "whole" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["freeze_norms"] is True
    first = min((tmp_path / "whole" / "checkpoints").iterdir())
    for name, data in (("recipe.json", None), (f"checkpoints/{first.name}", first)):
        (tmp_path / "part" / name).write_bytes((data or tmp_path / "whole" / name).read_bytes())
    Run(tiny(*settings), tmp_path / "part", resume=True).train()
    a, b = (
        timm.create_model(f"local-dir:{tmp_path / run / 'export'}", pretrained=True).state_dict()
        for run in ("whole", "part")
    )
    assert_equal(a, b)
