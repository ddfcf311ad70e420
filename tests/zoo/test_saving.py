"""Saved folders hold one model; a model that can't be loaded again is refused before any file changes."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from star_catalog import store
from star_zoo import hub, install, load_objective, objectives, save_pretrained, wrappers
from twins import POLICY, backbone, randn


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model with its heads, recipe and results."""
    model = backbone()
    objective = objectives.build("simclr", model.num_features, POLICY)
    return save_pretrained(tmp_path / "saved", model, objective, recipe={"name": "a"}, results={"evaluations": []})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_another_model_replaces_all_files_of_the_one_before(saved: Path):
    (saved / "notes.txt").write_text("a user's")
    other = timm.create_model("test_vit", num_classes=0)
    save_pretrained(saved, other)
    assert names(saved) == {"config.json", "model.safetensors", "notes.txt"}
    hub.check(saved)
    with pytest.raises(FileNotFoundError):
        load_objective(saved)


def test_the_same_model_keeps_what_is_not_given_again(saved: Path):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    save_pretrained(saved, hub.create(str(saved)), recipe={"name": "b"})
    after = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert json.loads(after.pop("recipe.json")) == {"name": "b"}
    assert after == {name: data for name, data in before.items() if name != "recipe.json"}


def test_heads_of_another_width_are_not_installed(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    objective = objectives.build("simclr", 7, POLICY)
    heads = save_pretrained(tmp_path / "heads", backbone(), objective)
    for name in ("heads.json", "heads.safetensors"):
        shutil.copy(heads / name, saved / name)
    width = backbone().num_features
    with pytest.raises(ValueError, match=f"heads for 7 features, but its model has {width}"):
        install(saved, "star_test_resnet.mine")
    assert store.installed() == []


@pytest.mark.parametrize("kind", ["compiled", "parallel"])
def test_a_model_inside_another_module_is_saved_as_itself(kind: str, tmp_path: Path):
    model = backbone()
    held = torch.compile(model, backend="eager") if kind == "compiled" else nn.DataParallel(model)
    save_pretrained(tmp_path, held)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    hub.check(tmp_path)


def test_a_wrapper_is_saved_so_that_it_loads(tmp_path: Path):
    model = wrappers.build("averaged", [backbone()], POLICY, views=2).eval()
    save_pretrained(tmp_path, model)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("other", [nn.Linear(2, 2), nn.Sequential(nn.Flatten())])
def test_a_module_that_timm_did_not_make_changes_no_file(other: nn.Module, saved: Path):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(ValueError, match="has no pretrained_cfg, so that timm could not load it again"):
        save_pretrained(saved, other)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize("tag", ["star_test_resnet.mine", "star_resnet10t.mine"])
def test_an_installed_model_is_there_at_once(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    model = timm.create_model(tag.removeprefix("star_").partition(".")[0], num_classes=0)
    install(save_pretrained(tmp_path / "model", model), tag)
    found = timm.create_model(tag, pretrained=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())
    assert timm.get_pretrained_cfg(tag).input_size == tuple(model.pretrained_cfg["input_size"])
    assert tag in timm.list_models("star_*", pretrained=True)
