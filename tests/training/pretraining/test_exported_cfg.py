"""What timm reads from an export about images: the views of the run, and not those of timm's own weights."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_data_config, resolve_model_data_config

from star_training import recipes
from star_training.evaluation.features import base_view, timm_view
from star_training.pretraining import module
from star_training.pretraining.recipe import Recipe
from star_training.settings.base import override
from star_zoo import save_pretrained, star_backbones

CFGS = {name: cfg for name in timm.list_models() if (cfg := timm.get_pretrained_cfg(name))}
MODES = {cfg.crop_mode: name for name, cfg in reversed(CFGS.items())}  # the first model of each


def folder(*settings: str) -> Recipe:
    return override(recipes.find("folder"), list(settings))


def test_timm_squashes_or_pads_images_for_some_of_its_models():
    assert set(MODES) >= {"center", "squash", "border"}


def test_no_model_of_timm_keeps_how_its_weights_are_tested():
    """Also with `use_test_size`, as timm's validate.py reads it."""
    policy = folder().policy
    for name, cfg in CFGS.items():
        made = dataclasses.replace(cfg, **module._overlay(policy, 3, cfg)).to_dict()
        assert resolve_data_config(pretrained_cfg=made, use_test_size=True) == {
            "input_size": (3, 96, 96), "interpolation": cfg.interpolation, "mean": policy.mean, "std": policy.std,
            "crop_pct": 1.0, "crop_mode": "center",
        }, name  # fmt: skip
        assert not {"label_descriptions", "label_offset", "license"} & made.keys(), name


@pytest.mark.parametrize("mode", MODES)
def test_timm_shows_an_export_the_same_part_of_an_image_as_the_runs_base_view(mode: str):
    recipe = folder(f"backbone={MODES[mode]}")
    image = torch.linspace(0, 255, 160).expand(3, 120, 160).to(torch.uint8)  # dark on the left, bright on the right
    ours = base_view(recipe.policy)([image])
    backbone = module.build_backbone(recipe, device="meta")
    timms = timm_view(backbone)([image])
    step = float((ours[..., 1:] - ours[..., :-1]).mean())
    assert backbone.pretrained_cfg["tag"] is None
    assert (ours - timms).abs().max() < step  # two ways to interpolate; squashed, the edges would be 12 steps apart


def test_a_network_without_the_number_of_its_features_is_refused(monkeypatch: pytest.MonkeyPatch):
    network = torch.nn.Flatten()
    network.pretrained_cfg, network.num_features = {}, 8
    monkeypatch.setattr(module.hub, "create", lambda *_, **__: network)
    with pytest.raises(ValueError, match=r"the network has no head_hidden_size; set it, see help\(star_zoo\.backbone"):
        module.build_backbone(folder(), device="meta")
    network.head_hidden_size = 8
    assert module.build_backbone(folder(), device="meta") is network  # without set_grad_checkpointing


def test_an_installed_tag_keeps_how_images_are_cropped(tmp_path: Path):
    overlay = {"crop_mode": "squash", "crop_pct": 0.9, "interpolation": "bilinear"}
    model = timm.create_model("test_resnet", num_classes=0, pretrained_cfg_overlay=overlay)
    save_pretrained(tmp_path, model)
    cfg, _ = star_backbones.read_config(tmp_path / "config.json", "star_test_resnet.mine")
    assert {name: getattr(cfg, name) for name in overlay} == overlay
    assert resolve_model_data_config(model)["crop_mode"] == "squash"
