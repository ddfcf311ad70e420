"""Parquet packs: images, labels, splits and classes."""

import json
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch

from data_cases import (
    numbers,
    png,
    write_folder,
    write_parquet,
)
from training.data import BadImageWarning, DataError, decode, open_source

PACKS = Path(__file__).parents[2] / "shared" / "data"


def test_parquet_split_labels_and_rows(tmp_path):
    path = write_parquet(
        tmp_path / "pack.parquet",
        image=[png(n) for n in range(7)],
        label=[1, 0, 1, 0, 2, 2, 2],
        label_name=["dog", "cat", "dog", "cat", "emu", "emu", "emu"],
        split=["test", "train", "train", "val", "train", "val", None],
    )
    source = open_source(str(path))
    assert numbers(source) == [1, 2, 4]
    assert source.targets.tolist() == [0, 1, 2] and source.classes == ("cat", "dog", "emu")
    assert source.describe(2) == "row 4 of pack.parquet"
    assert numbers(open_source(str(path), "test")) == [0] and numbers(open_source(str(path), "val")) == [3, 5]
    with pytest.raises(DataError, match=r"no split 'extra' in .*: it has 'test', 'train', 'val'"):
        open_source(str(path), "extra")


def test_parquet_without_splits_is_train(tmp_path):
    path = write_parquet(tmp_path / "test.parquet", image=[png(n) for n in range(3)])
    source = open_source(str(path))
    assert numbers(source) == [0, 1, 2] and source.targets is None and source.classes is None
    with pytest.raises(DataError, match="no split 'test'"):
        open_source(str(path), "test")


@pytest.mark.parametrize(
    ("metadata", "classes"),
    [
        ({"classes": json.dumps({"0": "cat", "2": "emu"})}, ("cat", "1", "emu")),
        ({"classes": json.dumps(["cat", "dog", "emu", "fox"])}, ("cat", "dog", "emu", "fox")),
        ({"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b", "c"]}}}})}, ("a", "b", "c")),
        (None, None),
    ],
)
def test_parquet_class_names_from_metadata(tmp_path, metadata, classes):
    path = write_parquet(tmp_path / "x.parquet", metadata, image=[png(0), png(1)], label=[0, 2])
    assert open_source(str(path)).classes == classes


def test_parquet_sets_in_one_folder_that_number_their_classes_differently_go_by_name(tmp_path):
    split = ["train", "train", "test"]
    for first, names in ((0, ["cat", "dog"]), (3, ["dog", "emu"])):
        write_parquet(
            tmp_path / f"{names[0]}.parquet", {"classes": json.dumps(names)}, image=[png(first + n) for n in range(3)],
            label=[0, 1, 1], label_name=[names[0], names[1], names[1]], split=split,
        )  # fmt: skip
    train, test = open_source(str(tmp_path)), open_source(str(tmp_path), "test")
    assert train.classes == test.classes == ("cat", "dog", "emu")
    assert dict(zip(numbers(train), train.targets.tolist(), strict=True)) == {0: 0, 1: 1, 3: 1, 4: 2}
    assert dict(zip(numbers(test), test.targets.tolist(), strict=True)) == {2: 1, 5: 2}


def test_parquet_sets_whose_labels_can_not_be_told_apart_are_refused(tmp_path):
    for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
        write_parquet(tmp_path / f"{name}.parquet", {"classes": json.dumps(classes)}, image=[png(0)], label=[0])
    with pytest.raises(DataError, match="number their classes differently; give each row a label_name"):
        open_source(str(tmp_path))
    write_parquet(tmp_path / "b.parquet", {"classes": json.dumps(["cat", "dog"])}, image=[png(1)], label=[0])
    assert open_source(str(tmp_path)).targets.tolist() == [0, 0]


@pytest.mark.parametrize("metadata", ["{", '{"cat": 0}', "3"])
def test_parquet_class_names_that_make_no_sense(tmp_path, metadata):
    path = write_parquet(tmp_path / "x.parquet", {"classes": metadata}, image=[png(0)], label=[0])
    with pytest.raises(DataError, match="can't read the class names"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        ([0.5, 2.0], [[0.5], [2.0]]),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]),
        ([[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
        ([-1, 3], None),
        ([None, 3], None),
        ([float("nan"), 1.0], None),
        ([[1.0], [1.0, 2.0]], None),
    ],
)
def test_parquet_regression_and_missing_labels(tmp_path, labels, targets):
    source = open_source(str(write_parquet(tmp_path / "x.parquet", image=[png(0), png(1)], label=labels)))
    assert source.classes is None
    assert source.targets is None if targets is None else torch.equal(source.targets, torch.tensor(targets))


@pytest.mark.parametrize("column", ["label", "label_name"])
def test_parquet_text_labels_are_numbered_over_all_splits(tmp_path, column):
    names, split = ["cat", "dog", "emu"], ["train", "train", "test"]
    path = write_parquet(tmp_path / "x.parquet", image=[png(n) for n in range(3)], split=split, **{column: names})
    source = open_source(str(path), "test")
    assert source.targets.tolist() == [2] and source.classes == ("cat", "dog", "emu")


def test_parquet_struct_images_with_bytes_or_path(tmp_path):
    write_folder(tmp_path, {"images/a.png": png(5)})
    rows = [
        {"bytes": png(4), "path": "x"},
        {"bytes": None, "path": "images/a.png"},
        None,
        {"bytes": None, "path": None},
    ]
    path = write_parquet(tmp_path / "x.parquet", image=rows)
    with pytest.warns(BadImageWarning, match="row 2 of x.parquet .zero bytes.; row 3 of x.parquet"):
        source = open_source(str(path), max_bad=0.5)
    assert numbers(source) == [4, 5]


def test_parquet_folder_splits_by_file_name(tmp_path):
    for number, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]):
        write_parquet(tmp_path / f"{name}.parquet", image=[png(10 * number + n) for n in range(3)])
    source = open_source(str(tmp_path))
    assert numbers(source) == [0, 1, 2, 10, 11, 12]
    assert source.describe(4) == "row 1 of train-00001-of-00002.parquet"
    assert numbers(open_source(str(tmp_path), "val")) == [20, 21, 22]


def test_parquet_folder_without_split_names_is_train(tmp_path):
    for name in "ba":
        write_parquet(tmp_path / f"{name}.parquet", image=[png(ord(name))])
    assert numbers(open_source(str(tmp_path))) == [ord("a"), ord("b")]


def test_parquet_that_huggingface_wrote(tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "label": [1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert numbers(source) == [0, 1, 2] and source.targets.tolist() == [1, 0, 1] and source.classes == ("cat", "dog")


def test_parquet_mistakes(tmp_path):
    cases = {
        "no column 'image', only picture": write_parquet(tmp_path / "a.parquet", picture=[png(0)]),
        "column 'image' of .* is string; expected binary": write_parquet(tmp_path / "b.parquet", image=["a.png"]),
        "can't read .* as Parquet": write_folder(tmp_path, {"c.parquet": b"PAR1 not really"}) / "c.parquet",
        "d.parquet has no images in this split": write_parquet(
            tmp_path / "d.parquet", image=pyarrow.array([], pyarrow.binary())
        ),
        "they must agree": write_parquet(tmp_path / "e/1.parquet", image=[png(0)]).parent,
    }
    write_parquet(tmp_path / "e/2.parquet", image=[png(0)], label=[0])
    for message, path in cases.items():
        with pytest.raises(DataError, match=message):
            open_source(str(path))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "x.parquet", image=[png(0)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'star-zoo\[train\]'"):
        open_source(str(path))


@pytest.mark.parametrize(("pack", "classes", "label"), [("cifar10", 10, "label"), ("caltech101", 101, "label")])
def test_real_packs(pack, classes, label):
    path = PACKS / f"{pack}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    source = open_source(str(path), "test", limit=20)
    assert len(source) == len(source.targets) == 20 and len(source.classes) == classes
    row = int(source.describe(11).split()[1])
    table = pyarrow.parquet.read_table(path, columns=["image", "label", "split"])
    assert table["split"][row].as_py() == "test" and table["label"][row].as_py() == source.targets[11]
    assert torch.equal(decode(table["image"][row].as_py()), source[11])
