"""Results of earlier versions, whose metrics are keyed by the displayed name, are read as today's."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from eval_cases import Oracle, blobs, splits
from pages import CARDS
from star_training.engine.results import read
from star_training.engine.results.old import slug, upgrade
from star_training.evaluation import protocols
from star_training.evaluation.features import Labelled
from star_training.evaluation.metrics import by_slug
from star_training.evaluation.protocols import equivariance, few_shot, invariance, redundancy
from star_training.evaluation.record import Record, evaluate
from star_zoo import zoo
from twins import build, randn
from view_cases import Sees, data

FILES = [*zoo.EMBEDDED.glob("*/results.json"), CARDS / "resnet10t" / "untrained.json"]
SLUGS = {
    "1-NN top-1": "knn1_top1",
    "20-NN accuracy": "knn20_accuracy",
    "Linear mean per class": "linear_per_class",
    "Linear mean per class, 1 % of labels": "linear_per_class_1pct",
    "FC100 5-way 5-shot": "fewshot_fc100_5way_5shot",
    "Fine-tuning top-1": "finetune_top1",
    "Fine-tuning top-1, 12.5 % of the labels": "finetune_top1_12_5pct",
    "COCO AP50": "coco_ap50",
    "knn20_top1": "knn20_top1",
}


LATER = {"few_shot_augmented", "projection", "rotated"}  # protocols whose metrics always had slugs


def old(record: dict[str, Any]) -> dict[str, Any]:
    """The record as earlier versions wrote it, whose metrics are all listed."""
    metrics = {m["name"]: {key: m[key] for key in ("value", "low", "high")} for m in record["metrics"].values()}
    return record | {"metrics": metrics}


def records(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """One record or more of every protocol."""
    monkeypatch.setattr(few_shot.accuracies, "__defaults__", (10,))
    monkeypatch.setattr(invariance, "_MOVED", 10)
    for name, size in (("_TRAIN", 40), ("_TEST", 30), ("_SEARCHED", 20), ("_VIEWS", 6)):
        monkeypatch.setattr(equivariance, name, size)
    classes = splits(blobs(300, classes=6), blobs(200, classes=6, seed=1))
    numbers = splits(*2 * [Labelled(randn(40, 5), randn(40, 2, seed=1))])
    photos, seen = data(60, 300), Sees(build("star"))
    photos.test.targets = torch.arange(300) % 4
    made = [evaluate(name, Oracle(), classes) for name in ("knn", "linear", "label_fraction", "few_shot")]
    made.append(evaluate("regression", Oracle(), numbers))
    return made + [evaluate(name, seen, photos) for name in ("redundancy", "equivariance", "invariance", "routing")]


def test_an_upgraded_record_is_that_of_today(monkeypatch: pytest.MonkeyPatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", redundancy.FewImagesWarning)
        made = [
            dataclasses.replace(record, metrics=by_slug(record.listed)).to_dict() for record in records(monkeypatch)
        ]
    assert {record["protocol"] for record in made} == set(protocols.known()) - LATER
    made = json.loads(json.dumps(made))
    upgraded = upgrade({"evaluations": [old(record) for record in made], "kept": 1})
    assert upgraded.keys() == {"evaluations", "kept"}
    for found, expected in zip(upgraded["evaluations"], made, strict=True):
        assert found == expected, expected["protocol"]
    assert upgrade({"evaluations": made}) == {"evaluations": made}


@pytest.mark.parametrize(("name", "expected"), SLUGS.items())
def test_a_name_has_one_slug(name: str, expected: str):
    assert slug(name) == expected


def test_a_committed_file_of_the_earlier_form_keeps_names_numbers_and_order():
    path = CARDS / "resnet10t" / "untrained.json"
    before, after = json.loads(path.read_text(encoding="utf-8")), read(path)
    for was, found in zip(before["evaluations"], after["evaluations"], strict=True):
        metrics = Record.from_dict(found).metrics
        assert [m.name for m in metrics.values()] == list(was["metrics"])
        assert [m.estimate._asdict() for m in metrics.values()] == list(was["metrics"].values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_the_records_of_the_zoo_come_back_from_the_earlier_form(path: Path):
    today = read(path)
    for record in today["evaluations"]:  # earlier versions had no metrics that aren't listed
        record["metrics"] = {slug: m for slug, m in record["metrics"].items() if m.get("listed", True)}
    earlier = today | {"evaluations": [old(record) for record in today["evaluations"]]}
    if "comparisons" in today:
        earlier["comparisons"] = [
            found | {"rows": [{key: row[key] for key in row if key != "name"} | {"metric": row["name"]}
                              for row in found["rows"]]}
            for found in today["comparisons"]
        ]  # fmt: skip
    assert upgrade(earlier) == today


def test_metrics_that_are_unreadable_are_refused_with_the_file(tmp_path: Path):
    path = tmp_path / "results.json"
    for metrics in ([1], 5, {"a": 1}):
        record = {"protocol": "knn", "model": "m", "data": "d", "seed": 0, "metrics": metrics}
        path.write_text(json.dumps({"evaluations": [record]}))
        with pytest.raises(ValueError, match="is not a valid results.json: .*; repair it"):
            read(path)
