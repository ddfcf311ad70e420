"""Saved heads that are not what they should be: each is refused in one line, nothing is unpickled or allocated."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from star_zoo import load_objective, objectives, save_pretrained, zoo
from twins import NUM_FEATURES, POLICY, backbone, build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pretrained(tmp_path, backbone(), build("star", num_experts=2))


def refused(folder: Path) -> str:
    """The one line in which a folder is refused."""
    with pytest.raises(ValueError) as caught:
        load_objective(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", ["heads.json", "heads.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {name}"):
        load_objective(folder)


def test_a_missing_folder_is_reported(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' doesn't exist; pass a finished run, a saved"):
        load_objective(tmp_path / "nowhere")


def test_a_run_has_the_heads_of_its_export(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no heads\.json; save_pretrained and finished runs write it"):
        load_objective(tmp_path)
    save_pretrained(tmp_path / "export", backbone(), objective := build("simclr"))
    assert load_objective(tmp_path).config == objective.config


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "heads.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


def with_augmentation(**settings: Any) -> dict[str, Any]:
    """A policy of a crop and one other."""
    return {**POLICY.to_dict(), "augmentations": [{"name": "Crop", "size": 16}, settings]}


SETTINGS = {"temperature": 0.2, "equivariant_weight": 1.0, "hidden": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has format version 2, but this star_zoo reads 1"),
        ({"objective": "stars"}, "'stars' not found; did you mean 'star'"),
        ({"objective": None}, "not describe a valid objective"),
        ({"objective": "equimod"}, "has no setting num_experts"),
        ({"objective": "simclr", "settings": {}}, "does not fit its heads.json"),
        ({"num_features": 9}, "heads.experts.linear1.weight is [16, 8], needs [18, 9]"),
        ({"num_features": -1}, "not describe a valid objective"),
        ({"num_features": "8"}, "not describe a valid objective"),
        ({"num_features": 10**12}, "not describe a valid objective"),
        ({"settings": {**SETTINGS, "num_experts": 3}}, "does not fit its heads.json"),
        ({"settings": {**SETTINGS, "num_experts": 10**9}}, "num_experts is 1000000000; a number here must be"),
        ({"settings": {**SETTINGS, "num_experts": 10**18}}, "not describe a valid objective"),
        ({"settings": {**SETTINGS, "num_experts": 10**25}}, "not describe a valid objective"),  # a many-line error
        ({"settings": {**SETTINGS, "num_experts": "2"}}, "not describe a valid objective"),
        ({"settings": {**SETTINGS, "bogus": 2}}, "has no setting bogus; known: num_experts"),
        ({"settings": [2]}, "not describe a valid objective"),
        ({"policy": {}}, "not a policy"),
        ({"policy": with_augmentation(name="Flip")}, "does not fit its heads.json"),
        ({"policy": with_augmentation(name="os.system")}, "'os.system' not found"),
        ({"policy": with_augmentation(name="Blur", sigma=[1])}, "not describe a valid objective"),
    ],
)
def test_heads_json_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str):
    rewrite(folder, **changes)
    assert message in refused(folder)


@pytest.mark.parametrize("name", ["format_version", "objective", "num_features", "settings", "policy"])
def test_heads_json_without_a_key_is_refused(folder: Path, name: str):
    path = folder / "heads.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))
    assert f"lacks {name}" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b"\x80\x04."])
def test_heads_json_that_is_something_else_is_refused(folder: Path, content: bytes):
    (folder / "heads.json").write_bytes(content)
    assert "heads.json" in refused(folder)


class Pickled:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled(folder: Path):
    trace = folder / "trace"
    for write in (lambda path: path.write_bytes(pickle.dumps(Pickled(trace))), lambda path: torch.save({}, path)):
        write(folder / "heads.safetensors")
        assert "not an intact safetensors file" in refused(folder)
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_a_truncated_file_is_refused(folder: Path, keep: float):
    path = folder / "heads.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert "not an intact safetensors file" in refused(folder)


@pytest.mark.parametrize("garbage", [b"garbage" * 1000, b"\xff" * 1000, b"\x00" * 1000])
def test_garbage_is_refused(folder: Path, garbage: bytes):
    (folder / "heads.safetensors").write_bytes(garbage)
    assert "not an intact safetensors file" in refused(folder)


NAME = "heads.experts.bias3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NAME), f"{NAME} is missing, needs [2, 1, 128]"),
        (lambda t: t.update(extra=torch.zeros(3)), "extra is [3], needs none"),
        (lambda t: t.update({NAME: torch.zeros(2, 1, 127)}), f"{NAME} is [2, 1, 127], needs [2, 1, 128]"),
        (lambda t: t.update({NAME: torch.zeros(256)}), f"{NAME} is [256], needs [2, 1, 128]"),
        (lambda t: t.update({NAME: torch.zeros(2, 1, 128).long()}), f"{NAME} is torch.int64, needs torch.float32"),
        (lambda t: t.clear(), "is missing, needs"),
    ],
    ids=["missing", "extra", "other shape", "flat", "whole numbers", "empty"],
)
def test_tensors_that_do_not_fit_are_refused(folder: Path, change: Callable[[dict[str, Tensor]], Any], message: str):
    tensors = load_file(folder / "heads.safetensors")
    change(tensors)
    (folder / "heads.safetensors").write_bytes(save(tensors))
    assert message in refused(folder)


def test_an_objective_that_could_not_be_made_again_is_not_saved(tmp_path: Path):
    objective = objectives.find("simclr")(NUM_FEATURES, POLICY)  # not by build: it doesn't know its settings
    with pytest.raises(ValueError, match=r"objectives\.build"):
        save_pretrained(tmp_path / "folder", backbone(), objective)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("cached", [False, True])
def test_offline_a_repository_with_timms_older_file_alone_has_no_safetensors(cached: bool, monkeypatch):
    def unreachable(*_: object) -> Path:
        raise zoo.NotAvailable("offline")

    monkeypatch.setattr(zoo, "fetch", unreachable)
    found = "pytorch_model.bin" if cached else None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo_id, file, revision: found)
    if cached:
        assert zoo.fetch_weights(zoo.Repository("owner/name")) is None
    else:
        with pytest.raises(zoo.NotAvailable, match="offline"):
            zoo.fetch_weights(zoo.Repository("owner/name"))
