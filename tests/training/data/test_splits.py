"""Which images train, validate and test, by the splits that a data set has."""

from pathlib import Path

import pytest
import torch

from data_cases import numbers, png, write_folder, write_parquet
from eval_cases import Given, small
from runs import pictures, tiny
from star_training.data import BadImageWarning, DataError
from star_training.data.eval_sets.dataset import Splits
from star_training.data.sources.subset import hold_out_by_class
from star_training.evaluation.features import Labelled
from star_training.evaluation.frozen_model import load
from star_training.evaluation.protocols import knn
from star_training.pretraining.online_eval import Monitor
from star_training.pretraining.setup import open_data
from twins import POLICY, backbone, randn


def held(targets: torch.Tensor | None) -> torch.Tensor:
    """The labels of the images that are held out of a set with these."""
    count = 50 if targets is None else len(targets)
    source = Given(Labelled(torch.arange(count)[:, None], targets))
    rest, part = hold_out_by_class(source, 0.2)
    assert sorted(rest._indices + part._indices) == list(range(count))
    assert part.fingerprint == hold_out_by_class(source, 0.2)[1].fingerprint
    return torch.tensor(part._indices) if targets is None else part.targets


def test_a_fifth_of_each_class_is_held_out_and_never_a_whole_class():
    labels = torch.tensor([0] * 50 + [4] * 10 + [5] * 2 + [9])
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    assert held(labels[order]).bincount().tolist() == [10, 0, 0, 0, 2, 1]
    assert len(held(None)) == 10 and len(held(randn(50, 2))) == 10


def test_where_nothing_can_be_held_out_this_is_said(tmp_path: Path):
    write_folder(tmp_path, {f"{c}/0.png": png(k) for k, c in enumerate("abc")})
    with pytest.raises(DataError, match="no class of .* has two images, one to train and one to test on; pass more"):
        _ = Splits(str(tmp_path)).test


def test_the_same_images_are_held_out_whichever_is_asked_first(tmp_path: Path):
    write_folder(tmp_path, {f"{c}/{k}.png": png(k) for k in range(40) for c in "ab"[k % 2]})
    for names in (("train", "test"), ("test", "train")):
        splits = Splits(str(tmp_path))
        parts = {name: numbers(getattr(splits, name)) for name in names}
        assert sorted(parts["train"] + parts["test"]) == list(range(40)) and splits.val is None
        assert sorted(number % 2 for number in parts["test"]) == [0] * 4 + [1] * 4
        assert splits.note == (
            f"{tmp_path.name}: the test images are 8 of 40 images, a fifth of each class drawn at random, since there "
            "are no splits"
        )


def test_images_that_decode_are_counted_among_those_of_the_summary(tmp_path: Path):
    write_folder(tmp_path, {f"{c}/{k}.png": png(k) if k else b"" for k in range(10) for c in "ab"})
    with pytest.warns(BadImageWarning, match="2 of the 20 images"):
        splits = Splits(str(tmp_path), max_bad=0.1)
        assert "the test images are 4 of 18 images that decode, a fifth of each class" in splits.note


def test_unknown_splits_beside_the_training_images_are_not_passed_over(tmp_path: Path):
    pack = write_parquet(tmp_path / "x.parquet", image=[png(1), png(2)], label=[0, 1], split=["train", "extra"])
    with pytest.raises(DataError, match="no split 'test' in .*: it has 'extra', 'train'"):
        _ = Splits(str(pack)).train


def test_a_set_of_the_table_without_its_test_images_is_refused(tmp_path: Path):
    write_folder(tmp_path, {f"{c}/{k}.png": png(k) for k in range(4) for c in "ab"})
    for name in ("mit67", "cars"):
        with pytest.raises(DataError, match="no split 'test'"):
            _ = Splits(f"{name}@{tmp_path}").train


def test_the_rule_of_the_table_holds_where_the_validation_split_tests(tmp_path: Path, monkeypatch):
    write_folder(tmp_path, {f"{s}/{c}/{k}.png": png(k) for s in ("train", "val") for k in range(4) for c in "ab"})
    small(monkeypatch, "mit67", 6, 2)
    splits = Splits(f"mit67@{tmp_path}")
    assert splits.val is None and len(splits.test) == len(splits.train) == 8
    assert splits.held_out(3).seed == 51


def test_online_evaluation_learns_from_no_image_that_it_measures_on(tmp_path: Path):
    sizes = {"train": (6, 4), "val": (4, 6)}
    write_folder(tmp_path, {f"{s}/{c}/{k}.png": png(k, sizes[s]) for s in sizes for k in range(9) for c in "ab"})
    with pytest.raises(
        ValueError, match="data.bank=val is the split that online evaluation measures on; pass another one"
    ):
        open_data(tiny(f"data.source={tmp_path}", "data.bank=val"))
    _, bank, held_out = open_data(tiny(f"data.source={tmp_path}"))
    assert (bank.describe(0), held_out.describe(0)) == tuple(f"{tmp_path / s}/a/0.png" for s in ("train", "val"))


def test_the_monitor_of_one_class_measures_no_accuracy(tmp_path: Path):
    splits = Splits(str(pictures(tmp_path, 10, classes=("only",))))
    assert set(Monitor(POLICY, splits.train, splits.test)(backbone())) == {"rankme"}
    with pytest.raises(ValueError, match="all of one class"):
        knn.run(load("pixels"), splits)
