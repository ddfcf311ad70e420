"""Labels that are ids, up to 2**62, instead of numbers of classes: nothing has an entry for every number."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from data_cases import numbers, png, write_parquet
from eval_cases import Given, Oracle, blobs, splits
from finetune_cases import tiny
from memory import at_most
from runs import tiny as tiny_pretraining
from star_training.data import open_source
from star_training.data.eval_sets.dataset import Splits
from star_training.data.sources.raw import are_ids
from star_training.data.sources.subset import numbered
from star_training.data.summary import summary
from star_training.evaluation.features import Labelled
from star_training.evaluation.protocols import knn, linear
from star_training.finetuning.data import open_labelled
from star_training.finetuning.run import FineTuning
from star_training.pretraining.online_eval import Monitor
from star_training.pretraining.setup import check_classes, open_data
from twins import POLICY, backbone, randn

IDS = [7, 10**9, 2**62]


def pack(path: Path, labels: list[int], test: int = 6, **more: Any) -> str:
    """Flat images, whose colour is their label's place among the sorted ones; the last are the test split."""
    known = sorted(set(labels))
    image = [png(60 + 60 * known.index(label) + k) for k, label in enumerate(labels)]
    split = ["train"] * (len(labels) - test) + ["test"] * test
    return str(write_parquet(path, image=image, label=labels, split=split, **more))


@pytest.mark.parametrize(
    ("largest", "distinct", "named", "expected"),
    [(999, 1, 0, False), (1000, 2, 0, True), (1009, 101, 0, False), (1010, 101, 0, True), (5000, 3, 5001, False)],
)
def test_ids_have_a_label_far_above_their_number(largest: int, distinct: int, named: int, expected: bool):
    assert are_ids(largest, distinct, named) is expected


@pytest.mark.parametrize("protocol", [knn, linear])
def test_accuracy_is_that_of_the_same_classes_numbered(protocol: Any):
    train, test = blobs(30), blobs(15, seed=1)
    ids = torch.tensor(IDS)
    with at_most(2**30):
        found, expected = (
            protocol.run(Oracle(), splits(*(Labelled(part.features, labels[part.targets]) for part in (train, test))))
            for labels in (ids, torch.arange(3))
        )
    assert [metric.value for metric in found.metrics.values()] == [m.value for m in expected.metrics.values()]


def test_fine_tuning_numbers_the_classes_and_keeps_the_ids_as_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = pack(tmp_path / "x.parquet", [IDS[k % 3] for k in range(18)])
    settings = tiny(data, "epochs=1", "batch_size=4")
    train, test, count = open_labelled(settings, Splits(data))
    assert count == 3 and train.classes == test.classes == ("7", "1000000000", str(2**62))
    assert train.targets is not None and train.targets.tolist() == [k % 3 for k in range(12)]
    assert test.targets is not None and test.targets.tolist() == [k % 3 for k in range(6)]
    assert train.bad == () and train.describe(4) == "row 4 of x.parquet" and numbers(train)[:3] == [60, 121, 182]
    with at_most(4 * 2**30):
        FineTuning(settings, tmp_path / "run").train()
    config = json.loads((tmp_path / "run/export/config.json").read_text())
    names = config.get("label_names") or config["pretrained_cfg"]["label_names"]
    assert config["num_classes"] == 3 and names == list(train.classes)
    noted = f"12 images of 3 classes in train, 6 in test; its labels are ids up to {2**62:,}, numbered 0 to 2 in their"
    assert noted in capsys.readouterr().out and noted in summary(train, test)
    assert summary(open_source(data)).endswith("numbered 0 to 2 in their order")  # as for an evaluation


def test_splits_are_numbered_alike(tmp_path: Path):
    """A test split of which no label looks like an id, and whose ids are not the first of the data set."""
    data = pack(tmp_path / "x.parquet", [7, 9, 2**62] * 4 + [9] * 4, test=4)
    train, bank, held_out = open_data(tiny_pretraining(f"data.source={data}"))
    assert bank is train and held_out is not None
    assert train.targets is not None and train.targets.tolist() == [0, 1, 2] * 4
    assert held_out.targets is not None and held_out.targets.tolist() == [1] * 4
    with at_most(2**30):
        assert set(Monitor(POLICY, bank, held_out)(backbone())) == {"knn1_top1", "linear_top1", "rankme"}


def test_an_unlabelled_split_stays_as_it_is():
    labelled, bare = Given(Labelled(randn(3, 2), torch.tensor(IDS))), Given(Labelled(randn(3, 2), None))
    found = numbered(labelled, bare, labelled)
    assert found[1] is bare and found[0] is found[2]
    few = Given(Labelled(randn(3, 2), torch.tensor([0, 5, 999])))
    assert numbered(few) == (few,)


@pytest.mark.parametrize(("given", "second"), [("label_name", "bee"), ("metadata", "bee"), ("some", str(10**9))])
def test_ids_with_names_are_numbered_by_all_splits(tmp_path: Path, given: str, second: str):
    labels = [2**62, 7, 10**9, 7, 7, 7]
    names = {7: "cat", 2**62: "dog", **({10**9: "bee"} if given != "some" else {})}
    path = tmp_path / "x.parquet"
    if given == "label_name":
        pack(path, labels, 2, label_name=[names[label] for label in labels])
    else:
        metadata = {"classes": json.dumps({str(label): name for label, name in names.items()})}
        split = ["train"] * 4 + ["test"] * 2
        write_parquet(path, metadata, image=[png(k) for k in range(6)], label=labels, split=split)
    train, test = open_source(str(path)), open_source(str(path), "test")
    assert train.targets is not None and train.targets.tolist() == [2, 0, 1, 0]
    assert test.targets is not None and test.targets.tolist() == [0, 0]
    assert train.classes == ("cat", second, "dog")
    assert test.classes is not None and test.classes[0] == "cat"


def test_an_objective_needs_an_output_for_each_class():
    source = Given(Labelled(randn(3, 2), torch.tensor([0, 5, 12])))
    for outputs in (13, None):
        check_classes(cast(Any, SimpleNamespace(config={"settings": {"num_classes": outputs}})), source)
    with pytest.raises(ValueError, match="classes up to number 12, but num_classes is 12; .*num_classes=13"):
        check_classes(cast(Any, SimpleNamespace(config={"settings": {"num_classes": 12}})), source)


def test_votes_of_many_classes_take_little_memory():
    labels = torch.arange(2**20)
    bank = torch.nn.functional.one_hot(torch.arange(4), 4).float().repeat(2**18, 1)
    bank[:8] *= torch.tensor([1.0, -1.0]).repeat_interleave(4)[:, None]
    with at_most(2**31):
        found = knn._vote(torch.rand(300, 20), labels[-6000:].reshape(300, 20))
    assert found.shape == (300,)
