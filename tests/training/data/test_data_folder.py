"""Folders of images: classes, splits, links, and what is no folder of images."""

import os

import pytest
import torch

from data_cases import (
    encoded,
    flat_folder,
    numbers,
    picture,
    png,
    write_folder,
)
from star_training.data import BadImageWarning, DataError, open_source
from star_training.data.sources.folder import open_folder


def test_class_folders(tmp_path):
    files = {
        "dog/b.PNG": png(2),
        "dog/deep/a.png": png(3),
        "cat/z.jpeg": encoded(picture(1), "JPEG"),
        "cat/notes.txt": b"x",
    }
    hidden = {".git/a.png": png(9), "dog/.a.png": png(9), "dog/.deep/a.png": png(9)}
    source = open_source(str(write_folder(tmp_path, files | hidden)))
    assert source.name == str(tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.targets.tolist() == [0, 1, 1] and source.targets.dtype == torch.int64
    assert [source.describe(i) for i in range(3)] == [
        str(tmp_path / f) for f in ("cat/z.jpeg", "dog/b.PNG", "dog/deep/a.png")
    ]
    assert numbers(source)[1:] == [2, 3]
    assert source[0].shape == (3, 4, 6)


@pytest.mark.parametrize("files", [["b.png", "a.png"], ["b.png", "cat/a.png"]])
def test_flat_or_mixed_folder_is_unlabelled(tmp_path, files):
    source = open_source(str(write_folder(tmp_path, dict.fromkeys(files, png(1)))))
    assert source.targets is None and source.classes is None and len(source) == 2
    assert source.describe(0).endswith("a.png") is (files[1] == "a.png")


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["train", "test", "val"], {"train": 0, "test": 1, "val": 2}),
        (["train", "valid"], {"train": 0, "val": 1, "valid": 1}),
        (["train", "validation"], {"train": 0, "val": 1}),
        (["train", "test"], {"train": 0, "test": 1, "val": None, "extra": None}),
        (["test", "val"], {"train": None, "test": 0, "val": 1}),
    ],
)
def test_split_folders(tmp_path, folders, found):
    write_folder(tmp_path, {f"{folder}/cat/a.png": png(number) for number, folder in enumerate(folders)})
    for split, number in found.items():
        if number is None:
            with pytest.raises(DataError, match=f"no split '{split}' in .*: it has 'test', '"):
                open_source(str(tmp_path), split)
        else:
            assert numbers(open_source(str(tmp_path), split)) == [number]


@pytest.mark.parametrize("files", [["cat/a.png", "dog/b.png"], ["a.png", "b.png"]])
def test_without_split_folders_all_is_train(tmp_path, files):
    write_folder(tmp_path, dict.fromkeys(files, png(1)))
    assert len(open_source(str(tmp_path))) == 2
    with pytest.raises(DataError, match=r"no split 'test' in .*: it has 'train'"):
        open_source(str(tmp_path), "test")


def test_a_class_missing_from_a_split_keeps_the_numbers(tmp_path):
    write_folder(tmp_path, dict.fromkeys(["train/a/0.png", "train/b/0.png", "train/c/0.png", "test/c/0.png"], png(1)))
    source = open_source(str(tmp_path), "test")
    assert source.classes == ("a", "b", "c") and source.targets.tolist() == [2]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_folder(tmp_path, {"data/cat/a.png": png(1), "elsewhere/b.png": png(2)})
    (tmp_path / "data/cat/again").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    source = open_source(str(tmp_path / "data"))
    assert numbers(source) == [1, 2] and source.classes == ("cat", "dog")


def test_dangling_link_counts_as_a_bad_image(tmp_path):
    (flat_folder(tmp_path, 3) / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(BadImageWarning, match=r"1 of the 4 images .*lost.png \(FileNotFoundError"):
        assert len(open_source(str(tmp_path), max_bad=0.25)) == 3


def test_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"can't read the folder .*Permission denied"):
        open_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "spec", "message"),
    [
        ([], ".", "no images found in .*expected class sub-folders"),
        (["notes.txt"], ".", "no images found in"),
        ([], "missing", "missing' doesn't exist.*pass a folder of images"),
        (["pack.zip"], "pack.zip", "unknown type '.zip'.*unpack"),
        ([], "shard-{0..1}.tar", "shard-0.tar of .* doesn't exist"),
        ([], "missing.parquet", "doesn't exist"),
    ],
)
def test_nothing_to_read(tmp_path, files, spec, message):
    write_folder(tmp_path, dict.fromkeys(files, b"x"))
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / spec))


@pytest.mark.parametrize("spec", ["http://host/a.tar", "https://host/a.parquet", "pipe:cat a.tar", "s3://bucket/a.tar"])
def test_remote_data_are_refused(spec):
    with pytest.raises(DataError, match="only local files are read"):
        open_source(spec)


@pytest.mark.parametrize("settings", [{"max_bad": -0.1}, {"max_bad": 1.5}, {"max_bad": float("nan")}, {"limit": 0}])
def test_impossible_settings(tmp_path, settings):
    with pytest.raises(DataError, match=next(iter(settings))):
        open_source(str(flat_folder(tmp_path, 1)), **settings)


def test_empty_spec_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(flat_folder(tmp_path, 1))
    with pytest.raises(DataError, match="'' doesn't exist"):
        open_source("")
