"""Saved folders: what is in them, and what loads from them, in plain timm too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import twins
from runs import plain
from star_zoo import Objective, load_objective, objectives, save_pretrained
from twins import NUM_FEATURES, POLICY, backbone, build, photos


def loss(objective: Objective) -> Tensor:
    """Of a fixed batch; what isn't published is made alike."""
    torch.manual_seed(0)
    encoder = twins.encoder(objective.policy, objective.needs_group).train(objective.training)
    published = objective.published()
    for name, tensor in objective.state_dict().items():
        if name not in published:  # momentum copies are made again, queues are emptied
            tensor.zero_()
    objective.attach(encoder)
    objective.train(objective.training)
    return objectives.total(objective(twins.batch(objective, 6), encoder))


def trained(name: str, **settings: Any) -> Objective:
    """An objective none of whose weights or statistics is as it was built."""
    objective = build(name, **settings)
    for _ in range(2):
        value = loss(objective)
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return objective


# --- objectives


@pytest.mark.parametrize("name", objectives.known())
def test_a_reloaded_objective_computes_the_very_same_loss(name: str, tmp_path: Path):
    objective = trained(name)
    loaded = load_objective(save_pretrained(tmp_path, backbone(), objective))
    assert type(loaded) is type(objective)
    assert loaded.policy == objective.policy
    assert loaded.config == objective.config
    assert loss(loaded.eval()) == loss(objective.eval())
    assert loss(loaded.train()) == loss(objective.train())


@pytest.mark.parametrize("name", objectives.known())
def test_a_reloaded_objective_can_be_trained_and_saved_again(name: str, tmp_path: Path):
    loaded = load_objective(save_pretrained(tmp_path, backbone(), trained(name)))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    loss(loaded).backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    again = load_objective(save_pretrained(tmp_path, backbone(), loaded))  # over the files that it was loaded from
    assert loss(again.eval()) == loss(loaded.eval())


def test_settings_come_back(tmp_path: Path):
    objective = trained("star", num_experts=3, temperature=0.5, equivariant_weight=0.3, hidden=5)
    loaded = load_objective(save_pretrained(tmp_path, backbone(), objective))
    assert loaded.config == objective.config
    given = {"num_experts": 3, "temperature": 0.5, "equivariant_weight": 0.3, "hidden": 5}
    assert loaded.config["settings"].items() >= given.items()
    assert loss(loaded.eval()) == loss(objective.eval())


def test_saving_changes_neither_layout_nor_mode(tmp_path: Path):
    model, objective = backbone().to(memory_format=torch.channels_last), build("star")
    save_pretrained(tmp_path, model, objective)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert model.training
    assert objective.training


# --- the backbone, in a plain timm that has never heard of star_zoo

_PLAIN_TIMM = """
import sys, timm, torch
from safetensors.torch import load_file, save_file
for folder in sys.argv[1:]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = load_file(f"{folder}/images.safetensors")["images"]
    with torch.no_grad():
        save_file({"features": model(images).contiguous()}, f"{folder}/plain.safetensors")
assert "star_zoo" not in sys.modules
"""
BACKBONES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "ours": (lambda: backbone("star_resnet10t.cifar10"), {}),
    "channels_last": (lambda: backbone("star_resnet10t.cifar10").to(memory_format=torch.channels_last), {}),
    "vit": (lambda: backbone("vit_tiny_patch16_224", img_size=96), {"img_size": 96, "drop_rate": 0.1}),
    "not ours": (lambda: backbone("test_convnext"), {}),
    "shared tensors": (lambda: backbone("coat_tiny", img_size=96), {"img_size": 96}),  # some have several names
}


@pytest.fixture(scope="module")
def plain_timm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensor]]:
    """For each backbone its folder, into which plain timm wrote the features, and the features as they should be."""
    saved = {}
    for name, (make, model_args) in BACKBONES.items():
        folder, model = tmp_path_factory.mktemp("model"), make().eval()
        images = photos(2, 96, 96).float() / 255
        save_pretrained(folder, model, build("star"), model_args=model_args)
        save_file({"images": images}, folder / "images.safetensors")
        with torch.no_grad():  # contiguous weights, for channels_last ones may add in another order
            saved[name] = folder, model.to(memory_format=torch.contiguous_format)(images)
    plain(_PLAIN_TIMM, *(folder for folder, _ in saved.values()), cwd=Path.cwd())
    return saved


@pytest.mark.parametrize("name", BACKBONES)
def test_plain_timm_computes_the_very_same_features(plain_timm: dict[str, tuple[Path, Tensor]], name: str):
    folder, expected = plain_timm[name]
    assert torch.equal(load_file(folder / "plain.safetensors")["features"], expected)


def test_config_json_names_timms_own_architecture(plain_timm: dict[str, tuple[Path, Tensor]]):
    config = {name: json.loads((folder / "config.json").read_text()) for name, (folder, _) in plain_timm.items()}
    assert config["ours"]["architecture"] == "resnet10t"
    assert config["ours"]["num_classes"] == 0
    assert config["ours"]["pretrained_cfg"]["input_size"] == [3, 48, 48]
    assert config["vit"]["architecture"] == "vit_tiny_patch16_224"
    assert config["not ours"]["architecture"] == "test_convnext"


def test_config_json_keeps_the_arguments_of_the_model(plain_timm: dict[str, tuple[Path, Tensor]]):
    given = json.loads((plain_timm["vit"][0] / "config.json").read_text())["model_args"]
    assert given["drop_rate"] == 0.1
    assert given["img_size"] in (96, [96, 96])  # as given or, in newer timm, as it found it


# --- which files


def test_a_folder_holds_what_was_given(tmp_path: Path):
    model = ["config.json", "model.safetensors"]
    save_pretrained(tmp_path / "new" / "folder", backbone())
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == model
    recipe, results = {"epochs": 3, "name": "a"}, {"knn": 0.5}
    save_pretrained(tmp_path / "full", backbone(), build("star"), recipe=recipe, results=results)
    heads = ["heads.json", "heads.safetensors"]
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == sorted(
        [*model, *heads, "recipe.json", "results.json"]
    )
    assert json.loads((tmp_path / "full" / "recipe.json").read_text()) == recipe
    assert json.loads((tmp_path / "full" / "results.json").read_text()) == results


def test_all_files_can_be_read_by_others(tmp_path: Path):
    other = tmp_path / "other"
    other.touch()
    save_pretrained(tmp_path / "model", backbone(), build("star"))
    assert {path.stat().st_mode for path in (tmp_path / "model").iterdir()} == {other.stat().st_mode}


def test_heads_json_describes_the_heads(tmp_path: Path):
    save_pretrained(tmp_path, backbone(), build("equimod"))
    heads = json.loads((tmp_path / "heads.json").read_text())
    assert heads["format_version"] == 1
    assert heads["objective"] == "equimod"
    assert heads["num_features"] == NUM_FEATURES
    assert heads["fields"] == list(POLICY.fields)
