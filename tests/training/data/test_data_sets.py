"""Data sets of torchvision and Hugging Face, and spirographs."""

import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
import torchvision

from data_cases import (
    flat_folder,
    numbers,
    picture,
    png,
    write_folder,
    write_idx,
)
from star_training.data import DataError, open_source
from star_training.data.streaming.stream import open_stream

# torchvision


def test_torchvision_by_train_flag(tmp_path):
    for prefix, first in (("train", 0), ("t10k", 50)):
        raw = tmp_path / "MNIST/raw"
        write_idx(
            raw / f"{prefix}-images-idx3-ubyte",
            np.arange(first, first + 3, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2),
        )
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.array([7, 0, 3], dtype=np.uint8))
    source = open_source(f"torchvision:MNIST@{tmp_path}")
    assert numbers(source) == [0, 1, 2] and source[0].shape == (3, 28, 28)
    assert source.targets.tolist() == [7, 0, 3] and source.classes[7] == "7 - seven"
    assert source.describe(1) == "image 1 of torchvision's MNIST"
    assert numbers(open_source(f"torchvision:MNIST@{tmp_path}", "test")) == [50, 51, 52]
    with pytest.raises(DataError, match="no split 'val'"):
        open_source(f"torchvision:MNIST@{tmp_path}", "val")


def test_torchvision_by_split(tmp_path):
    write_folder(
        tmp_path / "country211",
        {f"{s}/{c}/0.png": png(n) for n, s in enumerate(["train", "valid", "test"]) for c in "ab"},
    )
    spec = f"torchvision:Country211@{tmp_path}"
    assert [numbers(open_source(spec, split))[0] for split in ("train", "val", "test")] == [0, 1, 2]
    source = open_source(spec)
    assert source.targets.tolist() == [0, 1] and source.classes == ("a", "b")
    with pytest.raises(DataError, match=r"can't open the split 'extra' of torchvision's Country211: .*valid"):
        open_source(spec, "extra")


def test_torchvision_labels_kept_with_the_paths(tmp_path):
    names = [f"{split}/{word}/0.png" for split in ("train", "valid", "test") for word in ("negative", "positive")]
    write_folder(tmp_path / "rendered-sst2", dict.fromkeys(names, png(1)))
    source = open_source(f"torchvision:RenderedSST2@{tmp_path}")
    assert source.targets.tolist() == [0, 1] and source.classes == ("negative", "positive")


def test_torchvision_by_image_set(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    write_folder(root, {"JPEGImages/a.jpg": png(1), "Annotations/a.xml": b"<annotation/>"})
    write_folder(root, {f"ImageSets/Main/{split}.txt": b"a\n" for split in ("train", "val")})
    source = open_source(f"torchvision:VOCDetection@{tmp_path}")
    assert numbers(source) == [1] and source.targets is None and source.classes is None
    assert len(open_source(f"torchvision:VOCDetection@{tmp_path}", "val")) == 1


def test_torchvision_stl10_pretrains_on_the_unlabelled(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    folder = tmp_path / "stl10_binary"
    shape = (3, 96, 96)
    files = {"train_y.bin": bytes([1, 10]), "class_names.txt": b"\n".join(b"c%d" % n for n in range(10))}
    write_folder(folder, files | {"train_X.bin": bytes(2 * 27648), "unlabeled_X.bin": bytes([5]) * 27648})
    whole = open_source(f"torchvision:STL10@{tmp_path}")
    assert numbers(whole) == [0, 0, 5] and whole[0].shape == shape and whole.targets is None and whole.classes is None
    labelled = open_source(f"torchvision:STL10@{tmp_path}", "labeled")
    assert labelled.targets.tolist() == [0, 9] and len(labelled.classes) == 10
    assert labelled.fingerprint != whole.fingerprint


def test_torchvision_without_splits(tmp_path):
    source = open_source("torchvision:FakeData", limit=2)
    assert len(source) == 2 and source.targets is None
    with pytest.raises(DataError, match="no split 'test' in FakeData: it has 'train'"):
        open_source("torchvision:FakeData", "test")


def test_torchvision_unknown_name_lists_close_ones():
    with pytest.raises(DataError, match="no data set 'cifar10': did you mean CIFAR10 or CIFAR100"):
        open_source("torchvision:cifar10")
    with pytest.raises(DataError, match=r"it has .*STL10"):
        open_source("torchvision:zzzzzz")


def test_torchvision_that_holds_no_images(tmp_path):
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST/mnist_test_seq.npy", np.zeros((20, 2, 64, 64), dtype=np.uint8))
    with pytest.raises(DataError, match=r"none of the 2 images .*holds Tensors, not images"):
        open_source(f"torchvision:MovingMNIST@{tmp_path}")


def test_torchvision_download_fails(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(
        DataError, match=r"CIFAR10 isn't under .* can't be downloaded .*no network.*Put its files there"
    ):
        open_source(f"torchvision:CIFAR10@{tmp_path}")
    with pytest.raises(DataError, match="can't open torchvision's ImageNet"):  # which can't be downloaded at all
        open_source(f"torchvision:ImageNet@{tmp_path}")


def test_torchvision_downloads_only_what_is_missing(tmp_path, monkeypatch):
    calls = []

    class Fetched(torchvision.datasets.VisionDataset):
        def __init__(self, root, download=False):
            calls.append(download)
            if download:
                flat_folder(Path(root), 2)
            if not os.path.isdir(root):
                raise RuntimeError("Dataset not found. You can use download=True")
            self.root = root

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return picture(index), 0

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fetched)
    for expected in ([False, True], [False, True, False]):
        assert numbers(open_source(f"torchvision:CIFAR10@{tmp_path / 'new'}")) == [0, 1]
        assert calls == expected


def test_torchvision_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(
        tmp_path / ".cache/star_zoo/torchvision/country211",
        {f"{s}/a/0.png": png(1) for s in ("train", "valid", "test")},
    )
    assert numbers(open_source("torchvision:Country211")) == [1]


# Hugging Face


def hf_splits():
    features = datasets.Features(
        id=datasets.Value("int64"), picture=datasets.Image(), kind=datasets.ClassLabel(names=["cat", "dog"])
    )

    def split(first, kinds):
        images = [{"bytes": png(first + n), "path": None} for n in range(len(kinds))]
        return datasets.Dataset.from_dict({"id": kinds, "picture": images, "kind": kinds}, features=features)

    return datasets.DatasetDict(train=split(0, [1, 0, 1]), validation=split(20, [0]))


def test_saved_to_disk(tmp_path):
    hf_splits().save_to_disk(tmp_path / "all")
    source = open_source(str(tmp_path / "all"))
    assert numbers(source) == [0, 1, 2] and source.targets.tolist() == [1, 0, 1] and source.classes == ("cat", "dog")
    assert source.describe(1) == f"row 1 of {tmp_path / 'all'}"
    assert numbers(open_source(str(tmp_path / "all"), "val")) == [20]
    hf_splits()["validation"].save_to_disk(tmp_path / "one")
    assert numbers(open_source(str(tmp_path / "one"))) == [20]
    with pytest.raises(DataError, match="no split 'test'"):
        open_source(str(tmp_path / "one"), "test")


@pytest.mark.parametrize(
    ("values", "targets", "classes"),
    [
        (["b", "c"], [1, 2], ("a", "b", "c")),
        ([4, 5], [4, 5], None),
        ([0.5, 1.5], [[0.5], [1.5]], None),
        ([-1, 0], None, None),
    ],
)
def test_huggingface_labels(tmp_path, values, targets, classes):
    images = [{"bytes": png(n), "path": None} for n in range(2)]
    rows = datasets.Dataset.from_dict({"image": images, "labels": values}).cast_column("image", datasets.Image())
    other = datasets.Dataset.from_dict(
        {"image": images, "labels": [type(values[0])("a" if classes else 0)] * 2}
    ).cast_column("image", datasets.Image())
    datasets.DatasetDict(train=rows, test=other).save_to_disk(tmp_path)
    source = open_source(str(tmp_path))
    assert source.classes == classes and (None if source.targets is None else source.targets.tolist()) == targets


def test_huggingface_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, rows in hf_splits().items():
        (tmp_path / "hub").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / f"hub/{split}-00000.parquet")
    assert numbers(open_source(f"hf:{tmp_path / 'hub'}")) == [0, 1, 2]
    assert numbers(open_source(f"hf:{tmp_path / 'hub'}:default", "val")) == [20]
    with pytest.raises(DataError, match=r"can't load .*BuilderConfig 'other' not found"):
        open_source(f"hf:{tmp_path / 'hub'}:other")


def test_huggingface_mistakes(tmp_path, monkeypatch):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "words")
    with pytest.raises(DataError, match=r"no column of type Image, only .*text"):
        open_source(str(tmp_path / "words"))
    shutil.rmtree(tmp_path / "words")
    write_folder(tmp_path / "words", {"dataset_info.json": b"{}"})
    with pytest.raises(DataError, match=r"can't load .*words, which save_to_disk"):
        open_source(str(tmp_path / "words"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        open_source("hf:some/name")


@pytest.mark.parametrize("spec", ["hf:some/name", "stream:hf:some/name"])
def test_a_hub_set_without_a_network_is_refused_before_the_librarys_retries(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    loaded = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: loaded.append(names[0]) or {})
    opens = open_stream if spec.startswith("stream:") else open_source
    with pytest.raises(DataError, match=r"'some/name' with .*NotAvailable: the Hub can't be reached"):
        opens(spec)
    assert not loaded
    (tmp_path / "some___name").mkdir()  # as the library names a data set in its cache, which streams don't use
    with pytest.raises(DataError):
        opens(spec)
    assert loaded == ([] if spec.startswith("stream:") else ["some/name"])


# Spirographs


def test_spirographs():
    source = open_source("spirograph:7")
    assert len(source) == 7 and source.targets.shape == (7, 4) and source.targets.dtype == torch.float32
    assert len(open_source("spirograph")) == 100_000 and len(open_source("spirograph", "test")) == 20_000
    assert len(open_source("spirograph", limit=5)) == 5 and len(open_source("spirograph:3", limit=5)) == 3
    assert open_source("spirograph:7", "test").fingerprint != source.fingerprint
    source.check_bad()
    assert tuple(source.bad) == ()
    for spec in ("spirograph:x", "spirograph:0", "spirograph:-3"):
        with pytest.raises(DataError, match="not a number of images"):
            open_source(spec)
    with pytest.raises(DataError, match="no split 'extra'"):
        open_source("spirograph", "extra")
