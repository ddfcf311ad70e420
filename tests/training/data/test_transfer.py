"""The transfer sets, from made-up files in torchvision's layouts, and the conventions of every data set."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from data_cases import numbers, png, write_folder, write_parquet
from eval_cases import small
from star_training.data import DataError
from star_training.data.eval_sets.dataset import Splits
from star_training.data.eval_sets.transfer import SETS, HeldOut, conventions


def opened(name: str, root: Path) -> dict[str, Any]:
    """Numbers and labels by split, as a user opens it."""
    splits = Splits(f"{name}@{root}")
    found = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {split: s and list(zip(numbers(s), s.targets.tolist(), strict=True)) for split, s in found.items()}


def images(names: Iterable[str], first: int = 0) -> dict[str, bytes]:
    """Files with the numbers first, first + 1, ..."""
    return {name: png(first + number) for number, name in enumerate(names)}


# Conventions


def test_the_table_is_the_papers():
    rules = {name: row.conventions.held_out for name, row in SETS.items()}
    assert rules == {
        "cifar10": (45000, 5000, 43), "cifar100": (45000, 5000, 44), "food101": (68175, 7575, 42),
        "mit67": (4690, 670, 51), "pets": (2940, 740, 49), "flowers": None, "caltech101": None,
        "cars": (6494, 1650, 45), "aircraft": None, "dtd": None, "sun397": None, "stl10": (4500, 500, 50),
        "imagenet100": (114020, 12669, 12),
    }  # fmt: skip
    assert {name for name, row in SETS.items() if row.conventions.per_class} == {
        "pets", "flowers", "caltech101", "aircraft",
    }  # fmt: skip


@pytest.mark.parametrize("rule", [HeldOut(45000, 5000, 43), HeldOut(2940, 740, 49), HeldOut(6494, 1650, 45)])
def test_images_are_held_out_as_torch_splits_them(rule: HeldOut):
    peer = torch.utils.data.random_split(
        range(rule.train + rule.val), [rule.train, rule.val], generator=torch.Generator().manual_seed(rule.seed)
    )
    assert [part.tolist() for part in rule.draw(rule.train + rule.val)] == [list(part.indices) for part in peer]


@pytest.mark.parametrize(("count", "held"), [(30000, 3000), (19, 2), (4, 1), (2, 1)])
def test_of_another_number_of_images_as_large_a_share_is_held_out(count: int, held: int):
    rest, val = HeldOut(45000, 5000, 43).draw(count)
    assert len(val) == held and sorted(torch.cat((rest, val)).tolist()) == list(range(count))


@pytest.mark.parametrize(
    ("spec", "name", "per_class", "rule"),
    [
        ("packs/cifar10.parquet", "cifar10", False, (45000, 5000, 43)),
        ("packs/caltech101.parquet", "caltech101", True, (9, 1, 7)),
        ("packs/flowers17.parquet", "flowers17", True, (9, 1, 7)),
        ("packs/other.parquet", "other", False, (9, 1, 7)),
        ("/data/pets", "pets", True, (2940, 740, 49)),
        ("torchvision:CIFAR100@/data", "CIFAR100", False, (45000, 5000, 44)),
        ("torchvision:MNIST", "MNIST", False, (9, 1, 7)),
        ("aircraft@/data/x", "aircraft", True, (9, 1, 7)),
        ("/home/me@work/birds", "birds", False, (9, 1, 7)),
        ("spirograph:100", "spirograph:100", False, (9, 1, 7)),
    ],
)
def test_conventions_go_by_name(spec: str, name: str, per_class: bool, rule: tuple[int, int, int]):
    splits = Splits(spec)
    assert (splits.name, splits.per_class, splits.held_out(7)) == (name, per_class, rule)


def test_a_set_that_is_not_in_the_table_has_no_conventions():
    assert conventions("petunias") == (None, False)
    with pytest.raises(DataError, match="transfer data set 'petz' not found; did you mean 'pets'"):
        _ = Splits("petz@/data").train


def test_a_pack_keeps_its_own_validation_images(tmp_path: Path):
    write_parquet(tmp_path / "cifar10.parquet", image=[png(n) for n in range(4)], label=[0, 1, 0, 1],
                  split=["train", "train", "val", "test"])  # fmt: skip
    splits = Splits(str(tmp_path / "cifar10.parquet"))
    assert splits.val is not None and numbers(splits.val) == [2]


# Sets of torchvision


@pytest.mark.parametrize(("name", "classes", "key"), [("cifar10", 10, "labels"), ("cifar100", 100, "fine_labels")])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, classes: int, key: str):
    cls = getattr(torchvision.datasets, name.upper())
    monkeypatch.setattr(cls, "_check_integrity", lambda self: True)
    monkeypatch.setattr(cls, "_load_meta", lambda self: setattr(self, "classes", [str(c) for c in range(classes)]))
    for number, (file, _) in enumerate((*cls.train_list, *cls.test_list)):
        data = np.full((2, 3072), 2 * number, np.uint8)
        data[1] += 1
        path = tmp_path / cls.base_folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps({"data": data, key: [number % classes, 9]}))
    count = 2 * len(cls.train_list)
    small(monkeypatch, name, count - 1, 1)
    found = opened(name, tmp_path)
    assert [n for n, _ in found["train"]] == list(range(count)) and found["train"][1] == (1, 9)
    assert found["val"] is None and [n for n, _ in found["test"]] == [count, count + 1]


def test_an_incomplete_set_is_refused_where_the_papers_split_would_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_folder(tmp_path, images(["train/a/0.png", "train/b/0.png", "test/a/1.png", "test/b/1.png"]))
    with pytest.raises(DataError, match=r"mit67 under .* has 2 training images, .* is of 5360: 4690 and 670 to"):
        _ = Splits(f"mit67@{tmp_path}").train


def test_food101_is_by_class_whatever_the_order_of_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "food-101"
    write_folder(root, images([f"images/{c}/{n}.jpg" for c in ("apple", "soup") for n in range(3)]))
    for split, picked in (("train", [2, 0]), ("test", [1])):
        listed = {c: [f"{c}/{n}" for n in picked] for c in ("soup", "apple")}
        write_folder(root / "meta", {f"{split}.json": json.dumps(listed).encode()})
    small(monkeypatch, "food101", 3, 1)
    found = opened("food101", tmp_path)
    assert found == {"train": [(2, 0), (0, 0), (5, 1), (3, 1)], "val": None, "test": [(1, 0), (4, 1)]}


def test_pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "oxford-iiit-pet"
    write_folder(root, images([f"images/{pet}.jpg" for pet in ("Bengal_1", "Birman_1", "Bengal_2", "Birman_2")]))
    lists = {"trainval": b"Birman_1 2 1 1\nBengal_1 1 1 1\n", "test": b"Bengal_2 1 1 1\nBirman_2 2 1 1\n"}
    write_folder(root, {f"annotations/{split}.txt": text for split, text in lists.items()})
    small(monkeypatch, "pets", 1, 1)
    assert opened("pets", tmp_path) == {"train": [(1, 1), (0, 0)], "val": None, "test": [(2, 0), (3, 1)]}


def test_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scipy_io = pytest.importorskip("scipy.io")
    root = tmp_path / "flowers-102"
    write_folder(root, images([f"jpg/image_{n:05d}.jpg" for n in range(1, 8)]))
    scipy_io.savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2, 2]], np.uint8)})
    ids = {"trnid": [[2, 1]], "valid": [[3, 7]], "tstid": [[4, 6, 5]]}
    scipy_io.savemat(root / "setid.mat", {name: np.array(value, np.uint16) for name, value in ids.items()})
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    assert opened("flowers", tmp_path) == {
        "train": [(1, 1), (0, 0)], "val": [(2, 0), (6, 1)], "test": [(3, 1), (5, 1), (4, 0)],
    }  # fmt: skip


def test_aircraft(tmp_path: Path):
    root = tmp_path / "fgvc-aircraft-2013b/data"
    write_folder(root, images([f"images/{n}.jpg" for n in range(4)]))
    lists = {"train": b"1 A 300\n", "val": b"0 747\n", "test": b"2 747\n3 A 300\n", "trainval": b"1 A 300\n0 747\n"}
    write_folder(root, {f"images_variant_{split}.txt": text for split, text in lists.items()})
    write_folder(root, {"variants.txt": b"747\nA 300\n"})
    assert opened("aircraft", tmp_path) == {"train": [(1, 1)], "val": [(0, 0)], "test": [(2, 0), (3, 1)]}


def test_dtd(tmp_path: Path):
    root = tmp_path / "dtd/dtd"
    write_folder(root, images([f"images/{c}/{c}_{n}.jpg" for c in ("banded", "dotted") for n in range(2)]))
    lists = {"train": b"dotted/dotted_0.jpg", "val": b"banded/banded_0.jpg", "test": b"banded/banded_1.jpg"}
    write_folder(root, {f"labels/{split}1.txt": text for split, text in lists.items()})
    assert opened("dtd", tmp_path) == {"train": [(2, 0)], "val": [(0, 0)], "test": [(1, 0)]}


def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)

    def pixels(*values: int) -> bytes:
        return b"".join(bytes([value]) * 27648 for value in values)

    files = {"train_X.bin": pixels(4, 5, 6), "train_y.bin": bytes([1, 10, 2]), "test_X.bin": pixels(7),
             "test_y.bin": bytes([3]), "class_names.txt": b"\n".join(b"c%d" % n for n in range(10))}  # fmt: skip
    write_folder(tmp_path / "stl10_binary", files)
    small(monkeypatch, "stl10", 2, 1)
    assert opened("stl10", tmp_path) == {"train": [(4, 0), (5, 9), (6, 1)], "val": None, "test": [(7, 2)]}


# Folders


@pytest.mark.parametrize("name", ["mit67", "cars"])
@pytest.mark.parametrize("inside", ["", "NAME"])
def test_folders_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: str):
    files = ["train/a/0.png", "train/b/0.png", "train/b/1.png", "val/a/0.png", "test/a/0.png", "test/b/0.png"]
    write_folder(tmp_path / inside.replace("NAME", name), images(files))
    small(monkeypatch, name, 2, 1)
    found = opened(name, tmp_path)  # its rule says which images validate, whatever else lies there
    assert found == {"train": [(0, 0), (1, 1), (2, 1)], "val": None, "test": [(4, 0), (5, 1)]}


def test_imagenet100_keeps_the_listed_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = [f"{split}/n{c}/{n}.png" for split in ("train", "val") for c in range(4) for n in range(2)]
    write_folder(tmp_path, images(files) | {"test/0.png": png(99)})
    small(monkeypatch, "imagenet100", 3, 1)
    with pytest.raises(DataError, match=r"has 4 classes; to select some, add imagenet100\.txt"):
        _ = Splits(f"imagenet100@{tmp_path}").train
    (tmp_path / "imagenet100.txt").write_text("n3\nn1\n")
    found = opened("imagenet100", tmp_path)
    assert found == {
        "train": [(2, 1), (3, 1), (6, 0), (7, 0)], "val": None, "test": [(10, 1), (11, 1), (14, 0), (15, 0)],
    }  # fmt: skip
    assert Splits(f"imagenet100@{tmp_path}").test.classes == ("n3", "n1")
    (tmp_path / "imagenet100.txt").write_text("n3\nn7\n")
    with pytest.raises(DataError, match=r"lacks 1 of the classes of imagenet100\.txt, e\.g\. n7"):
        _ = Splits(f"imagenet100@{tmp_path}").train


def test_imagenet100_of_its_hundred_classes_needs_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_folder(tmp_path, images([f"{split}/n{c:02d}/0.png" for split in ("train", "val") for c in range(100)]))
    small(monkeypatch, "imagenet100", 90, 10)
    splits = Splits(f"imagenet100@{tmp_path}")
    assert splits.train.targets.tolist() == splits.test.targets.tolist() == list(range(100))


# File lists


def caltech(root: Path) -> None:
    names = ("BACKGROUND_Google", "Faces", "ant")
    files = [f"101_ObjectCategories/{c}/image_{n:04d}.jpg" for c in names for n in range(1, 4)]
    write_folder(root / "caltech101", images(files) | {"Annotations/ant/a.mat": b""})


@pytest.mark.parametrize("form", ["by index", "by split", "pth"])
def test_caltech101_goes_by_a_list_of_files(tmp_path: Path, form: str):
    caltech(tmp_path)
    lists = {"train": [5, 0], "val": [3], "test": [1, 4, 2]}
    if form == "pth":
        torch.save(tuple(lists.values()), tmp_path / "caltech101.pth")
    else:
        by_index = {str(index): split for split, indices in lists.items() for index in indices}
        (tmp_path / "caltech101_split.json").write_text(json.dumps(by_index if form == "by index" else lists))
    peer = torchvision.datasets.Caltech101(str(tmp_path))
    assert list(zip(peer.y, peer.index, strict=True)) == [(c, n) for c in range(2) for n in (1, 2, 3)]
    # the background's files were numbered first, so that image 0 is file 3
    assert opened("caltech101", tmp_path) == {
        "train": [(8, 1), (3, 0)], "val": [(6, 1)], "test": [(4, 0), (7, 1), (5, 0)],
    }  # fmt: skip


def test_a_missing_or_longer_list_is_refused(tmp_path: Path):
    caltech(tmp_path)
    with pytest.raises(DataError, match=r"caltech101 is split by a list of files: put caltech101\.pth of github"):
        _ = Splits(f"caltech101@{tmp_path}").train
    (tmp_path / "caltech101_split.json").write_text('{"0": "train", "6": "test"}')
    with pytest.raises(DataError, match="caltech101@.* has 6 images, but its list of files has 7: complete it"):
        _ = Splits(f"caltech101@{tmp_path}").train


@pytest.mark.parametrize("partitions", ["", "SUN397"])
def test_sun397(tmp_path: Path, partitions: str):
    files = [f"{c}/sun_{n}.jpg" for c in ("a/abbey", "b/bow/indoor") for n in range(3)]
    write_folder(tmp_path / "SUN397", images(files))
    lists = {
        "ClassName.txt": "/a/abbey\n/b/bow/indoor\n",
        "Training_01.txt": "\n".join(f"/{files[n]}" for n in (0, 4, 3, 1)),
        "Testing_01.txt": f"/{files[5]}\n/{files[2]}\n",
    }
    write_folder(tmp_path / partitions, {name: text.encode() for name, text in lists.items()})
    with pytest.raises(DataError, match=r"put sun397\.pth of"):
        _ = Splits(f"sun397@{tmp_path}").train
    (tmp_path / "sun397_split.json").write_text('{"train": [2, 0, 1], "val": [3]}')
    assert opened("sun397", tmp_path) == {
        "train": [(3, 1), (0, 0), (4, 1)], "val": [(1, 0)], "test": [(5, 1), (2, 0)],
    }  # fmt: skip


def test_sun397_without_its_partitions_is_refused(tmp_path: Path):
    write_folder(tmp_path / "SUN397", images(["a/abbey/0.jpg"]) | {"ClassName.txt": b"/a/abbey\n"})
    with pytest.raises(DataError, match=r"sun397 needs Testing_01\.txt in .*Partitions\.zip"):
        _ = Splits(f"sun397@{tmp_path}").test
    write_folder(tmp_path, {"Testing_01.txt": b"/z/zoo/0.jpg"})
    with pytest.raises(DataError, match=r"has images of 'z/zoo', which ClassName\.txt lacks"):
        _ = Splits(f"sun397@{tmp_path}").test
