"""How a data set may be named: columns of tables, bare names, `~`; and how it is named in tables."""

import json
import os

import pyarrow
import pytest
from PIL import Image

from data_cases import numbers, png, write_folder, write_parquet
from star_catalog.columns import split_columns, with_columns
from star_training.data import BadImageWarning, DataError, open_source
from star_training.data.eval_sets.dataset import Splits
from star_training.data.eval_sets.local import found
from star_training.data.eval_sets.names import distinctly_named
from star_training.data.places import resolved
from star_training.data.sources.base import name_alone
from star_training.data.summary import summary


@pytest.mark.parametrize(
    ("spec", "place", "columns"),
    [
        ("a.parquet", "a.parquet", {}),
        ("a.parquet:image=img", "a.parquet", {"image": "img"}),
        ("hf:me/set:small:label=a b,image=x:y,z", "hf:me/set:small", {"label": "a b", "image": "x:y,z"}),
        ("torchvision:CIFAR10@/data/a=b", "torchvision:CIFAR10@/data/a=b", {}),
        ("stream:https://host/x?a=b", "stream:https://host/x?a=b", {}),
    ],
)
def test_columns_follow_the_place(spec, place, columns):
    assert split_columns(spec) == (place, columns)
    assert with_columns(place, columns) == spec


@pytest.mark.parametrize("columns", ["img=x", "image=a,label=,split=b", "image=a,image=b", "image=a,picture=b"])
def test_an_unknown_role_is_refused_with_the_known_ones(columns):
    with pytest.raises(ValueError, match="write image=COLUMN, label=COLUMN or split=COLUMN"):
        split_columns(f"a.parquet:{columns}")


def test_given_columns_are_read_by_all_kinds_of_tables(tmp_path):
    import datasets

    rows = {"a": [png(0), png(1), png(2)], "b": [png(7), png(8), png(9)], "part": ["test", "train", "train"]}
    path = write_parquet(tmp_path / "x.parquet", **rows, label=[0, 0, 0], kind=[5, 1, 3])
    spec = f"{path}:image=b,label=kind,split=part"
    source = open_source(spec)
    assert numbers(source) == [8, 9] and source.targets.tolist() == [1, 3]
    assert summary(source) == f"{spec}: 2 images of 2 classes in train, 1 in test"  # without notes on the choice
    assert Splits(spec).test.targets.tolist() == [5] and Splits(spec).name == "x:kind"

    features = datasets.Features(a=datasets.Image(), b=datasets.Image(), kind=datasets.ClassLabel(names=["u", "v"]))
    pictures = {name: [{"bytes": one, "path": None} for one in rows[name]] for name in ("a", "b")}
    datasets.Dataset.from_dict({**pictures, "kind": [1, 0, 1]}, features=features).save_to_disk(tmp_path / "saved")
    saved = open_source(f"{tmp_path / 'saved'}:image=b,label=kind")
    assert numbers(saved) == [7, 8, 9] and saved.targets.tolist() == [1, 0, 1] and saved.classes == ("u", "v")
    with pytest.raises(DataError, match="has no column 'c' for image=; it has a, b, kind"):
        open_source(f"{tmp_path / 'saved'}:image=c")
    with pytest.raises(DataError, match="has no columns, so leave out 'label=kind'"):
        open_source(f"{write_folder(tmp_path / 'flat', {'0.png': png(0)})}:label=kind")


def test_two_labels_of_one_file_are_two_data_sets(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", image=[png(0)], fine=[1], coarse=[0])
    assert [each.name for each in distinctly_named([f"{path}:label=fine", f"{path}:label=coarse"])] == [
        "x:fine",
        "x:coarse",
    ]
    assert name_alone(f"{path}:label=fine") == "x.parquet:label=fine"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("pets@/home/me/private/pets", "pets"),
        ("pets@../private/pets", "pets"),
        ("torchvision:CIFAR10@/home/me/tv", "torchvision:CIFAR10"),
        ("torchvision:CIFAR10@../tv", "torchvision:CIFAR10"),
        ("/home/me/shard-{0000..0003}.tar", "shard-{0000..0003}.tar"),
        ("gone/from/here", "here"),
        ("hf:/home/me/ds", "hf:ds"),
        ("hf:uoft-cs/cifar10", "hf:uoft-cs/cifar10"),
        ("hf:owner/name:config", "hf:owner/name:config"),
        ("stream:hf:owner/name", "stream:hf:owner/name"),
        ("stream:/home/me/s-{0..4}.tar", "stream:s-{0..4}.tar"),
        ("spirograph:32", "spirograph:32"),
        ("cifar10", "cifar10"),
    ],
)
def test_a_published_name_has_no_folder_of_this_machine(place: str, name: str):
    assert name_alone(place) == name


def test_names_of_another_column_are_not_taken_for_a_given_label(tmp_path):
    path = write_parquet(
        tmp_path / "x.parquet", {"classes": json.dumps(["cat", "dog"])},
        image=[png(0), png(1)], label=[0, 1], label_name=["cat", "dog"], size=[3, 4],
    )  # fmt: skip
    source = open_source(f"{path}:label=size")
    assert source.targets.tolist() == [3, 4] and source.classes is None
    assert open_source(str(path)).classes == ("cat", "dog")


def test_the_only_column_that_may_hold_images_is_taken(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", id=[4, 5], photo=[png(2), png(3)])
    assert numbers(open_source(str(path))) == [2, 3]
    assert "; column photo is taken for image" in summary(open_source(str(path)))


def test_dictionaries_and_views_as_polars_writes_them(tmp_path):
    labels = pyarrow.array(["b", "a", "b"]).dictionary_encode()
    images = pyarrow.array([png(2), png(3), png(2)])
    for number, column in enumerate((images.dictionary_encode(), images.cast(pyarrow.binary_view()))):
        path = write_parquet(tmp_path / f"{number}.parquet", image=column, label=labels.cast(labels.type))
        source = open_source(str(path))
        assert numbers(source) == [2, 3, 2] and source.targets.tolist() == [1, 0, 1] and source.classes == ("a", "b")


def test_paths_are_read_below_the_folder_of_the_table_alone(tmp_path):
    write_folder(tmp_path, {"secret.png": png(9), "set/images/0.png": png(1), "set/1.png": png(2), "set/2.png": png(3)})
    (tmp_path / "set/link.png").symlink_to(tmp_path / "secret.png")
    inside = ["images/0.png", str(tmp_path / "set/1.png"), "images/../2.png"]
    (tmp_path / "set/cycle.png").symlink_to("cycle.png")
    os.mkfifo(tmp_path / "set/pipe.png")
    outside = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "/dev/zero", "images"]
    outside += ["cycle.png", "pipe.png", "1.png\0", "x" * 5000 + ".png"]
    path = write_parquet(tmp_path / "set/x.parquet", file_name=inside + outside)
    with pytest.warns(BadImageWarning, match=r"9 of the 12 images .*'\.\./secret\.png' is no file below"):
        source = open_source(str(path), max_bad=0.9)
    assert numbers(source) == [1, 2, 3]
    before = source.fingerprint
    Image.new("RGB", (3, 3)).save(tmp_path / "set/1.png")
    with pytest.warns(BadImageWarning):
        assert open_source(str(path), max_bad=0.9).fingerprint != before


def test_paths_of_a_saved_data_set_are_read_below_its_folder_alone(tmp_path):
    import datasets

    write_folder(tmp_path, {"secret.png": png(9)})
    rows = [{"bytes": png(4), "path": None}, *({"bytes": None, "path": path} for path in ("1.png", "../secret.png"))]
    rows.append({"bytes": None, "path": "/dev/zero"})
    table = datasets.Dataset.from_dict({"image": rows})  # a struct, which `save_to_disk` leaves as it is
    table.save_to_disk(tmp_path / "saved")
    write_folder(tmp_path, {"saved/1.png": png(5)})
    path = tmp_path / "saved/dataset_info.json"
    info = json.loads(path.read_text())
    info["features"]["image"] = {"_type": "Image"}
    path.write_text(json.dumps(info))
    with pytest.warns(BadImageWarning, match=r"2 of the 4 images .*'\.\./secret\.png' is no file below"):
        source = open_source(str(tmp_path / "saved"), max_bad=0.9)
    assert numbers(source) == [4, 5]


def test_a_bare_name_is_looked_up_in_the_folder_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("STAR_ZOO_DATA", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "sets/tiny.parquet", image=[png(4)], kind=[2])
    write_folder(tmp_path / "sets/pets", {"images/0.png": png(1)})
    assert numbers(open_source("tiny")) == [4] and open_source("tiny:label=kind").targets.tolist() == [2]
    assert Splits("tiny").name == "tiny" and Splits("pets").spec == f"pets@{tmp_path / 'sets/pets'}"
    assert resolved("tiny") == str(tmp_path / "sets/tiny.parquet") and resolved("tin") == "tin"
    with pytest.raises(DataError, match=rf"'tin' doesn't exist .*, or a name in {tmp_path / 'sets'}: pets, tiny\."):
        open_source("tin")
    write_folder(tmp_path / "tiny", {"0.png": png(5)})
    assert numbers(open_source("tiny")) == [5]  # a path comes first


def test_a_home_folder_is_expanded_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_parquet(tmp_path / "x.parquet", image=[png(4), png(5)], label=[2, 2])
    write_folder(tmp_path / "sets/pets", {"images/0.png": png(1)})
    splits = Splits("~/x.parquet:label=label")
    assert splits.spec == f"{path}:label=label" and splits.expected_images == 2
    assert [each.spec for each in distinctly_named(["~/x.parquet", str(path)])] == [str(path)]
    monkeypatch.setenv("STAR_ZOO_DATA", "~/sets")
    assert found() == [f"pets@{tmp_path / 'sets/pets'}"]


def test_hidden_and_system_folders_are_no_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("STAR_ZOO_DATA", str(tmp_path))
    write_folder(tmp_path, {f"{name}/0.png": png(0) for name in (".cache", "__MACOSX", "shapes")})
    write_folder(tmp_path, {"._x.parquet": b""})
    assert found() == [str(tmp_path / "shapes")]


def test_a_bare_name_of_the_papers_is_the_parquet_file_in_the_folder_of_data_sets(tmp_path, monkeypatch):
    """cifar10@ROOT is torchvision's layout, which a file isn't."""
    monkeypatch.setenv("STAR_ZOO_DATA", str(tmp_path))
    path = write_parquet(tmp_path / "cifar10.parquet", image=[png(0), png(1)], label=[0, 0], split=["train", "test"])
    splits = Splits("cifar10")
    assert splits.spec == str(path) and splits.name == "cifar10"
    assert numbers(splits.test) == [1]
