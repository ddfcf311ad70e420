"""The labelled images of fine-tuning: fractions of the labels, and the sets that are refused. Letters: C classes."""

from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_cases import write_parquet
from eval_cases import Given
from finetune_cases import COLOURS, coloured, tiny
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation.features import Labelled
from star_training.finetuning.data import open_labelled, stratified
from star_training.finetuning.run import FineTuning
from twins import randn


def test_a_set_without_names_of_classes_gives_their_labels_as_names(tmp_path: Path):
    coloured(tmp_path / "images", 24, 6)
    files = sorted((tmp_path / "images").rglob("*.png"))
    columns = {
        "image": [f.read_bytes() for f in files],
        "label": [list(COLOURS).index(f.parent.name) for f in files],
        "split": [f.parent.parent.name for f in files],
    }
    pack = write_parquet(tmp_path / "pack.parquet", **columns)
    FineTuning(tiny(pack, "epochs=1"), tmp_path / "out").train()
    model = timm.create_model(f"local-dir:{tmp_path / 'out' / 'export'}", pretrained=True)
    assert model.num_classes == 3 and model.pretrained_cfg["label_names"] == ["0", "1", "2"]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), fraction=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_a_fraction_takes_the_same_share_of_each_class(sizes: list[int], fraction: float, seed: int):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    source = Given(Labelled(randn(len(labels), 2), labels))
    part = stratified(source, fraction, seed)
    assert part.targets is not None
    expected = [max(1, round(fraction * size)) for size in sizes]
    assert torch.bincount(part.targets, minlength=len(sizes)).tolist() == expected
    again = stratified(source, fraction, seed)
    assert part.fingerprint == again.fingerprint


def test_another_seed_takes_other_images():
    source = Given(Labelled(randn(200, 2), torch.arange(200) % 2))
    assert stratified(source, 0.1, 0).fingerprint != stratified(source, 0.1, 1).fingerprint
    assert stratified(source, 1, 0) is source


def labelled(train: Tensor | None, test: Tensor | None) -> Splits:
    made = Splits("given")
    for name, targets in (("train", train), ("test", test)):
        source = Given(Labelled(torch.zeros(9 if targets is None else len(targets), 2), targets))
        made.__dict__[name] = source
    return made


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (None, torch.arange(3), "the train split of given has no labels to fine-tune with"),
        (torch.arange(3), None, "the test split of given has no labels to fine-tune with"),
        (torch.rand(4, 2), torch.rand(4, 2), "the labels of given are numbers; fine-tuning needs classes"),
        (torch.arange(3), torch.arange(5), "has 2 classes that its train split lacks: 3, 4; a classifier can't"),
        (torch.arange(2), torch.arange(9), "has 7 classes that its train split lacks: 2, 3, 4, 5, 6 and 2 more;"),
        (torch.zeros(3).long(), torch.zeros(3).long(), "given: the training images are all of one class"),
    ],
)
def test_labels_that_can_not_be_learned_are_refused(train, test, message: str):
    with pytest.raises(ValueError) as refused:
        open_labelled(tiny("given"), labelled(train, test))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_class_without_test_images_is_fine():
    assert open_labelled(tiny("given"), labelled(torch.tensor([0, 3, 1]), torch.tensor([1])))[2] == 4
