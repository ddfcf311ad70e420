"""Features on disk: read only if they are whole, of the same images and by the same model."""

import os
import re
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from content_cases import KINDS, overwrite, rows
from disk import files_end_at
from runs import pictures
from star_training.cli.main import main
from star_training.data import contents
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation import feature_cache
from star_training.evaluation.features import pixels
from star_training.evaluation.frozen_model import FrozenModel, load
from twins import randn

KEY = "model-data-12"


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A file of twelve images' features, and the features."""
    features = randn(12, 5)
    feature_cache.FeatureCache(tmp_path).write(KEY, features)
    (path,) = tmp_path.iterdir()
    return path, features


def read(path: Path, key: str = KEY, count: int = 12) -> torch.Tensor | None:
    return feature_cache.FeatureCache(path.parent).read(key, count)


def test_features_come_back_to_the_last_bit(kept):
    path, features = kept
    assert torch.equal(read(path), features)
    assert read(path, count=11) is None and read(path, "other-data-12") is None


def test_a_full_disk_fails_no_evaluation_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    for split in ("train", "test"):
        pictures(tmp_path / "images" / split, 8)
    words = ["eval", "knn", "pixels", "--data", str(tmp_path / "images")]
    with files_end_at(1000):
        assert main(words) == 0
    full = capsys.readouterr()
    assert "nothing is cached in" in full.err and full.err.count("File too large") == 1
    assert not list((tmp_path / "home").rglob("*.safetensors*")) and not list((tmp_path / "home").rglob(".*"))
    assert main(words) == 0
    measured = [re.sub(r"\(\d+ s\)", "", text) for text in (full.out, capsys.readouterr().out)]
    assert "20-NN" not in measured[0] and "1-NN top-1" in measured[0] and measured[0] == measured[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda features: features[:, :4],
        lambda features: features[:11],
        lambda features: features.double(),
        lambda features: features.half(),
        lambda features: features.flatten(),
        lambda features: features.roll(1, 0),
        lambda features: features.index_fill(0, torch.tensor([3]), float("nan")),
        lambda features: features.int(),
    ],
)
def test_a_file_that_holds_anything_else_is_not_read(kept, change):
    path, features = kept
    save_file({"features": change(features).contiguous()}, path)
    assert read(path) is None
    whole = path.with_name("whole")
    feature_cache.FeatureCache(path.parent).write(KEY, features)
    whole.write_bytes(path.read_bytes())
    metadata = {"checksum": feature_cache._checksum(KEY, features)}  # right, but of what was there
    save_file({"features": change(features).contiguous()}, path, metadata)
    assert read(path) is None


def test_no_flipped_byte_or_cut_goes_unseen(kept):
    path, features = kept
    whole, cache = path.read_bytes(), feature_cache.FeatureCache(path.parent)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found = cache.read(KEY, 12)
        assert found is None or torch.equal(found, features)  # a byte of padding may change
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert cache.read(KEY, 12) is None


def test_another_models_file_under_this_name_is_not_read(kept):
    path, _ = kept
    cache = feature_cache.FeatureCache(path.parent)
    cache.write("other-data-12", randn(12, 5, seed=1))
    cache._path("other-data-12").replace(path)
    assert read(path) is None


def test_other_versions_are_other_features(kept, monkeypatch):
    path, _ = kept
    monkeypatch.setattr(feature_cache, "version", lambda package: "0")
    assert read(path) is None


def test_a_folder_that_can_not_be_written_costs_no_evaluation(tmp_path: Path):
    source = Splits(str(pictures(tmp_path / "images", 10))).train
    (tmp_path / "file").touch()
    assert load("pixels", cache=tmp_path / "file" / "features").features(source).shape == (8, 3 * 32 * 32)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("test_resnet", {"act_layer": "silu"}),
        ("test_resnet", {"global_pool": "max"}),
        ("test_vit", {"act_layer": "silu"}),
        ("test_vit", {"global_pool": "max", "fc_norm": False}),
        ("test_convnext", {"norm_eps": 1e-3}),
    ],
)
def test_a_model_is_known_by_its_settings_as_well_as_its_weights(name: str, settings: dict):
    def fingerprint(**settings) -> str:
        torch.manual_seed(0)
        return FrozenModel(name, timm.create_model(name, num_classes=0, **settings), pixels(8)).fingerprint

    assert fingerprint() == fingerprint() != fingerprint(**settings)


def test_data_overwritten_in_place_are_measured_anew(tmp_path: Path):
    changed, cache = rows(), tmp_path / "cache"
    changed[0], changed[2] = changed[2], changed[0]
    specs = {kind: KINDS[kind](tmp_path / kind / "x", rows()) for kind in ("folder", "parquet", "tar", "saved")}
    time.sleep(contents._SETTLED + 0.1)
    for number, (kind, spec) in enumerate(specs.items()):
        before = load("pixels", cache=cache).features(Splits(spec).train)
        assert torch.equal(load("pixels", cache=cache).features(Splits(spec).train), before)
        assert len(os.listdir(cache)) == 2 * number + 1
        KINDS[kind](tmp_path / kind / "changed", changed)
        overwrite(tmp_path / kind / "x", tmp_path / kind / "changed")
        after = load("pixels", cache=cache).features(Splits(spec).train)
        assert not torch.equal(after, before) and torch.equal(after, load("pixels").features(Splits(spec).train))


def test_a_file_of_too_few_columns_is_made_anew(tmp_path: Path):
    source = Splits(str(pictures(tmp_path / "images", 10))).train
    features = load("pixels", cache=tmp_path / "cache").features(source)
    (path,) = (tmp_path / "cache").iterdir()
    save_file({"features": features[:, :7].contiguous()}, path)
    assert torch.equal(load("pixels", cache=tmp_path / "cache").features(source), features)
    assert torch.equal(load_file(path)["features"], features)
