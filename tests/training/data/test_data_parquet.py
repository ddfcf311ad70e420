"""Parquet packs: images, labels, splits and classes."""

import json
import sys
from decimal import Decimal
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
from star_training.cli.main import main
from star_training.data import BadImageWarning, DataError, decode, open_source
from star_training.data.summary import summary

PACKS = Path(__file__).parents[4] / "shared" / "data"


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


def test_a_row_without_a_name_names_no_class(tmp_path):
    path = write_parquet(
        tmp_path / "pack.parquet",
        image=[png(n) for n in range(6)],
        label=[0, 1, 2, 0, 1, 2],
        label_name=["cat", None, "emu", None, "dog", None],
    )
    assert open_source(str(path)).classes == ("cat", "dog", "emu")


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


def test_parquet_sets_with_ambiguous_labels_are_refused(tmp_path):
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


VIEWS = [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
]


@pytest.mark.parametrize("kind", VIEWS, ids=str)
@pytest.mark.parametrize("picture", [pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view()], ids=str)
def test_parquet_text_and_bytes_of_any_arrow_type(tmp_path, kind, picture):
    columns = {
        "image": pyarrow.array([png(k) for k in range(4)], pyarrow.binary()).cast(picture),
        "label": pyarrow.array(["b", "a", "b", "c"]).cast(kind),
        "split": pyarrow.array(["train", "train", "test", "test"]).cast(kind),
    }
    path = write_parquet(tmp_path / "x.parquet", **columns)
    source = open_source(str(path))
    assert numbers(source) == [0, 1] and source.targets.tolist() == [1, 0] and source.classes == ("a", "b", "c")
    assert numbers(open_source(str(path), "test")) == [2, 3]
    named = write_parquet(tmp_path / "y.parquet", **(columns | {"label": [3, 0, 3, 1], "label_name": columns["label"]}))
    assert open_source(str(named)).targets.tolist() == [3, 0] and open_source(str(named)).classes[3] == "b"


def test_parquet_struct_of_views_and_a_dictionary_of_numbers(tmp_path):
    images = pyarrow.StructArray.from_arrays(
        [pyarrow.array([png(4), png(5)]).cast(pyarrow.binary_view()), pyarrow.array(["x", "y"]).cast("string_view")],
        ["bytes", "path"],
    )
    path = write_parquet(tmp_path / "x.parquet", image=images, label=pyarrow.array([7, 2]).dictionary_encode())
    source = open_source(str(path))
    assert numbers(source) == [4, 5] and source.targets.tolist() == [7, 2]


@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        ([Decimal("1"), Decimal("0")], [1, 0]),
        ([Decimal("1.5"), Decimal("0")], [[1.5], [0.0]]),
        (pyarrow.array([3, 4], pyarrow.decimal256(40)), [3, 4]),
        (pyarrow.array([True, False]), [1, 0]),
        (pyarrow.array([1, 0], pyarrow.uint8()), [1, 0]),
        ([1.0, 0.0], [[1.0], [0.0]]),
    ],
)
def test_parquet_labels_of_decimals_and_floats(tmp_path, labels, targets):
    source = open_source(str(write_parquet(tmp_path / "x.parquet", image=[png(0), png(1)], label=labels)))
    assert source.targets.tolist() == targets
    assert ("store classes as integers" in summary(source)) is (targets == [[1.0], [0.0]])


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (None, "there is no column 'label'"),
        ([None, 3], "1 of 2 rows have no label, the first is image 0"),
        (["cat", None], "1 of 2 rows have no label, the first is image 1"),
        ([4, -1], "1 of 2 images have a negative label, the first is image 1"),
        ([0.5, float("nan")], "1 of 2 images have no label, the first is image 1"),
        ([[1.0], [1.0, 2.0]], "the labels are rows of different lengths"),
        ([b"x", b"y"], "the labels are neither classes nor numbers"),
    ],
)
def test_parquet_why_there_are_no_labels(tmp_path, labels, why):
    columns = {} if labels is None else {"label": labels}
    source = open_source(str(write_parquet(tmp_path / "x.parquet", image=[png(0), png(1)], **columns)))
    assert source.targets is None and f"2 images without labels ({why}) in train" in summary(source)


def test_parquet_why_one_of_several_splits_has_no_labels(tmp_path, capsys):
    rows = {"image": [png(k) for k in range(5)], "label": [0, -1, 1, -1, -1], "split": ["train"] * 3 + ["test"] * 2}
    path = write_parquet(tmp_path / "x.parquet", **rows)
    test = "2 of 2 images of the split 'test' have a negative label, the first is image 0"
    assert f"without labels ({test}) in train, 2 in test" in summary(open_source(str(path), "test"))
    assert main(["eval", "knn", "pixels", "--data", str(path)]) == 1
    train = "1 of 3 images of the split 'train' have a negative label, the first is image 1"
    assert f"{path} has no labels to evaluate with: {train}\n" in capsys.readouterr().err


def test_parquet_labels_beyond_64_bits_are_refused(tmp_path):
    labels = pyarrow.array([1, 2**63], pyarrow.uint64())
    path = write_parquet(tmp_path / "x.parquet", image=[png(0), png(1)], label=labels)
    with pytest.raises(DataError, match=rf"x.parquet has labels above 2\^63 - 1, e.g. {2**63}: number the"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("image", "label", "split"),
    [
        ("image", "label", "split"), ("img", "labels", "Split"), ("Image", "fine_label", "split"),
        ("jpg", "target", "split"), ("pixel_values", "class", "SPLIT"), ("images", "fine_labels", "split"),
    ],
)  # fmt: skip
def test_parquet_columns_by_other_usual_names(tmp_path, image, label, split):
    rows = {image: [png(k) for k in range(3)], label: [2, 1, 0], split: ["Train", "Train", "Test"]}
    path = write_parquet(tmp_path / "x.parquet", **rows)
    source = open_source(str(path))
    assert numbers(source) == [0, 1] and source.targets.tolist() == [2, 1]
    notes = [
        f"; column {name} is taken for {usual}" for name, usual in ((image, "image"), (label, "label")) if name != usual
    ]
    assert summary(source) == f"{path}: 2 images of 2 classes in Train, 1 in Test{''.join(notes)}"


def test_parquet_of_two_columns_that_could_be_meant_the_first_is_named(tmp_path):
    path = write_parquet(
        tmp_path / "x.parquet", img=[png(0)], image=[png(1)], coarse_label=[3], fine_label=[4], label=[5]
    )
    source = open_source(str(path))
    assert numbers(source) == [1] and source.targets.tolist() == [5]
    assert "column image is taken for image, not img; column label is taken for label, not fine_label" in summary(
        source
    )


def test_parquet_rows_without_a_split_are_counted(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", image=[png(k) for k in range(3)], split=["train", None, "extra"])
    write_parquet(tmp_path / "y.parquet", image=[png(0)] * 5, split=[None, None, "train", "train", None])
    assert (
        "1 image without labels (there is no column 'label') in train, 1 in extra; left out: row 1 of x.parquet "
        "(without a split)"
    ) in summary(open_source(str(path)))
    assert "left out: row 1 of x.parquet, row 0 of y.parquet, row 1 of y.parquet and 1 more (without a split)" in (
        summary(open_source(str(tmp_path)))
    )
    assert numbers(open_source(str(path), "extra")) == [2]


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
        "no column 'image', only x, y: .*a.parquet:image=x": write_parquet(tmp_path / "a.parquet", x=[1], y=[2]),
        "column of .* is int64; expected binary": write_parquet(tmp_path / "b.parquet", image=[1]),
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


def test_labels_beyond_float32_leave_images_without_labels(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", image=[png(0), png(1)], label=[0.5, 1e300])
    source = open_source(str(path))
    assert source.targets is None
    assert "1 of 2 images have a label beyond the range of float32, the first is image 1" in summary(source)


@pytest.mark.parametrize("names", ["3", '{"info": {"features": {"label": 3}}}', '{"info": []}', '[["a"], 2'])
def test_metadata_that_names_no_classes_is_refused(tmp_path, names: str):
    key = "huggingface" if names.startswith("{") else "classes"
    path = write_parquet(tmp_path / "x.parquet", {key: names}, image=[png(0)], label=[0])
    with pytest.raises(DataError, match=r"can't read the class names in the metadata of .*x\.parquet"):
        open_source(str(path))
