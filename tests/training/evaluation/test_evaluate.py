"""Models by name, their cached features, records of what was measured; and intervals, against scipy."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import timm
import torch

from eval_cases import Oracle, blobs, splits
from runs import pictures
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation import metrics as metric
from star_training.evaluation import protocols as evals
from star_training.evaluation.frozen_model import load
from star_training.evaluation.record import Record, evaluate, record
from twins import randn

# Protocols


def test_protocols_are_found_by_name():
    assert {"knn", "linear", "regression"} <= set(evals.known())
    with pytest.raises(ValueError, match="protocol 'knnn' not found; did you mean 'knn'"):
        evals.find("knnn")


def test_a_record_is_plain_json_and_says_what_was_measured_on_what():
    result = evaluate("knn", Oracle(), splits(blobs(40), blobs(20, seed=1)), seed=3)
    written = json.loads(json.dumps(result.to_dict()))
    assert written == result.to_dict() and Record.from_dict(written) == result
    assert (result.protocol, result.model, result.data, result.seed) == ("knn", "oracle", "given", 3)
    assert result.images == {"train": 40, "test": 20}
    metric = written["metrics"]["knn1_top1"]
    assert (metric["name"], metric["unit"], metric["kind"]) == ("1-NN top-1", "share", "accuracy")


def test_a_new_record_replaces_the_same_and_keeps_all_else(tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_text('{"training": {"steps": 3}}')
    first = evaluate("knn", Oracle(), splits(blobs(40), blobs(20, seed=1)))
    for seed in (0, 1, 0):
        record(path, dataclasses.replace(first, seed=seed, seconds=10 + seed))
    kept = json.loads(path.read_text())
    assert kept["training"] == {"steps": 3}
    assert [(r["seed"], r["seconds"]) for r in kept["evaluations"]] == [(1, 11), (0, 10)]


# Models by name


def test_features_are_extracted_once_and_survive_the_process(tmp_path: Path):
    source = Splits(str(pictures(tmp_path / "images", 10))).train
    fresh = load("untrained:test_resnet", 0, tmp_path / "cache")
    features = fresh.features(source)
    (file,) = (tmp_path / "cache").iterdir()
    again = load("untrained:test_resnet", 0, tmp_path / "cache")
    again.backbone = None  # nothing is computed
    again.fingerprint = fresh.fingerprint
    assert torch.equal(again.features(source), features)
    other = load("untrained:test_resnet", 1, tmp_path / "cache")
    assert not torch.equal(other.features(source), features)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    file.write_bytes(b"cut short")
    assert torch.equal(load("untrained:test_resnet", 0, tmp_path / "cache").features(source), features)


def test_a_model_comes_back_in_the_mode_it_came_in(tmp_path: Path):
    model = load("untrained:test_resnet")
    model.backbone.train()
    model.features(Splits(str(pictures(tmp_path, 10))).train)
    assert all(m.training for m in model.backbone.modules())


def test_any_timm_model_has_a_policy_for_views():
    model = load("untrained:test_resnet")
    assert model.objective is None
    config = timm.data.resolve_model_data_config(model.backbone)
    assert (model.policy.size, model.policy.mean) == (config["input_size"][-1], config["mean"])


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="model 'nosuchnet' can't be loaded"):
        load("nosuchnet")


# Intervals


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (7, 10), (10, 10), (300, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, total: int):
    found = metric.share(torch.arange(total) < hits)
    peer = pytest.importorskip("scipy.stats").binomtest(hits, total).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((hits / total, peer.low, peer.high), abs=1e-12)


def test_the_quantile_is_the_normal_distributions():
    assert pytest.importorskip("scipy.special").ndtri(0.975) == metric.Z


def test_the_interval_of_a_mean():
    values = randn(50).double()
    found = metric.mean(values)
    half = 1.959964 * float(values.std()) / math.sqrt(50)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), rel=1e-5)
    assert metric.mean([0.5]) == metric.Estimate(0.5)


def test_classes_count_alike_however_many_images_they_have():
    hits, targets = torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1])
    found = metric.class_mean(hits, targets)
    assert found.value == 0.5 and found.low < 0.5 < found.high


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(200) % 10
    rates = torch.linspace(0.2, 0.9, 10)[targets]
    held = {"share": 0, "class_mean": 0, "mean": 0}
    for _ in range(1000):
        hits = torch.rand(200, generator=generator) < rates
        for name, found in (
            ("share", metric.share(torch.rand(200, generator=generator) < 0.55)),
            ("class_mean", metric.class_mean(hits, targets)),
            ("mean", metric.mean(torch.rand(200, generator=generator) + 0.05)),
        ):
            held[name] += found.low <= 0.55 <= found.high
    assert all(930 <= count <= 985 for count in held.values()), held
