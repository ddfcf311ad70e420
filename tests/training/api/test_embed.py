"""`embed`: every image's features and embeddings in a file, in constant memory, whole or not at all."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import star_training
from data_cases import encoded, write_parquet
from finetune_cases import coloured
from runs import finish, pictures, start
from star_training.api.embed import Embeddings
from star_training.cli.main import main
from star_training.data.eval_sets.every_split import every_split
from star_training.evaluation import embedding_file, features
from star_training.evaluation.frozen_model import load
from star_zoo import load_objective

MODEL = "star_resnet10t.cifar10"
PEAKS = """
import resource, sys, star_training, star_training.api.embed
from star_training.evaluation import embedding_file, frozen_model

star_training.api.embed._AT_ONCE, embedding_file._GROUP, frozen_model._PIXELS = 50, 2**20, 64
peaks = []
for folder in sys.argv[1:]:
    found = star_training.embed("pixels", data=folder, out=f"{folder}.parquet", workers=0)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(found.images, peaks[1] - peaks[0])
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders in two splits; one image doesn't decode."""
    folder = coloured(tmp_path_factory.mktemp("embed") / "images", train=9, test=3)
    (folder / "train" / "green" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def found(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    """Written from batches of two images and in several row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("star_training.api.embed._AT_ONCE", 2)
        patch.setattr(embedding_file, "_GROUP", 5000)
        return star_training.embed(MODEL, data=images, out=tmp_path_factory.mktemp("out") / "new" / "e.parquet")


def test_the_file_has_features_embeddings_and_labels_of_every_image(images: Path, found):
    assert found.images == 12 and pq.ParquetFile(found.path).num_row_groups > 2
    files = [str(path) for split in ("train", "test") for path in sorted((images / split).rglob("[0-9]*.png"))]
    assert found.column("file") == files
    assert found.column("split") == ["train"] * 9 + ["test"] * 3
    assert found.column("class") == [Path(file).parent.name for file in files]
    assert found.column("label") == [("blue", "green", "red").index(name) for name in found.column("class")]
    model = load(MODEL)
    pixels = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]
    with torch.no_grad():
        expected = model.backbone.eval()(model.preprocess(pixels))
        z = load_objective(MODEL).eval().embed(expected)
    for name, truth in {"features": expected, **z}.items():
        np.testing.assert_allclose(found.array(name), truth, rtol=1e-4, atol=1e-5)
    assert pq.read_schema(found.path).metadata[b"model"] == MODEL.encode()


def test_images_that_fail_are_listed_and_left_out(images: Path, found):
    assert found.failed == [str(images / "train" / "green" / "broken.png")]
    assert str(found).splitlines() == [
        f"{found.path}: 12 images", "left out, because they don't decode (1):", *found.failed,
    ]  # fmt: skip


def test_the_command_writes_the_array_and_a_list_of_its_rows(images: Path, found, tmp_path: Path, capsys):
    out = tmp_path / "e.npy"
    assert main(["embed", MODEL, "--data", str(images), "--out", str(out)]) == 0
    assert (
        capsys.readouterr().out.splitlines()[0] == f"{out}: 12 images; their files and labels in {tmp_path / 'e.csv'}"
    )
    np.testing.assert_allclose(np.load(out), found.array(), rtol=1e-4, atol=1e-5)
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == found.column("file")
    assert [(row["split"], int(row["label"]), row["class"]) for row in rows] == list(
        zip(found.column("split"), found.column("label"), found.column("class"), strict=True)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.csv", "e.npy"]
    array = Embeddings(out, 12, [])
    np.testing.assert_array_equal(array.array(), np.load(out))
    for read in (array.array, array.column):
        with pytest.raises(ValueError, match=r"e.npy holds the features alone, so there is no 'z_inv'; .*e.csv"):
            read("z_inv")


def test_a_flat_folder_has_no_labels_and_a_wrapper_its_own_features(tmp_path: Path):
    flat = pictures(tmp_path / "flat", 3, classes=("",))
    found = star_training.embed("pixels", data=flat, out=tmp_path / "e.parquet")
    assert found.column("label") == found.column("class") == [None] * 3
    assert found.array().shape == (3, 3 * 32 * 32)
    with pytest.raises(ValueError, match="'z_inv' not found; .*known: file, split, label, class, features"):
        found.array("z_inv")
    wrapped = star_training.embed(f"heads(space=z_inv):{MODEL}", data=flat, out=tmp_path / "h.parquet")
    heads = star_training.embed(MODEL, data=flat, out=tmp_path / "m.parquet")
    np.testing.assert_allclose(wrapped.array(), heads.array("z_inv"), rtol=1e-4, atol=1e-5)
    assert pq.read_schema(wrapped.path).names == ["file", "split", "label", "class", "features"]


def test_numbers_to_predict_are_lists(tmp_path: Path):
    png = encoded(Image.new("RGB", (8, 8)), "PNG")
    data = write_parquet(tmp_path / "numbers.parquet", image=[png, png], label=[[0.5, 1.0], [0.25, 2.0]])
    found = star_training.embed("pixels", data=data, out=tmp_path / "e.parquet")
    assert found.column("label") == [[0.5, 1.0], [0.25, 2.0]] and found.column("class") == [None, None]
    assert found.column("file") == ["row 0 of numbers.parquet", "row 1 of numbers.parquet"]
    star_training.embed("pixels", data=data, out=tmp_path / "e.npy")
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    assert [json.loads(row["label"]) for row in rows] == [[0.5, 1.0], [0.25, 2.0]]


def test_splits_of_any_name_are_read_in_the_usual_order(tmp_path: Path):
    for name in ("test", "extra", "train"):
        pictures(tmp_path / "data" / name, 2)
    splits = every_split(str(tmp_path / "data"))
    assert {name: len(source) for name, source in splits.items()} == {"train": 2, "test": 2, "extra": 2}
    assert list(every_split("spirograph:5")) == ["train", "val", "test"]


@pytest.mark.parametrize("name", ["e.parquet", "e.npy"])
def test_an_error_leaves_the_former_file(name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / name
    out.write_bytes(b"former")
    original = features.feature_batches

    def failing(*arguments):
        for number, batch in enumerate(original(*arguments)):
            yield batch * float("inf") if number else batch

    monkeypatch.setattr(features, "feature_batches", failing)
    monkeypatch.setattr("star_training.api.embed._AT_ONCE", 4)
    with pytest.raises(ValueError, match="images of .* have features that are not finite"):
        star_training.embed("pixels", data=images, out=out)
    assert out.read_bytes() == b"former" and [path.name for path in tmp_path.iterdir()] == [name]


def test_another_format_or_a_place_in_the_data_is_refused_before_the_model_is_loaded(images: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"e.csv ends in '.csv'; pass a file that ends in .parquet or .npy"):
        star_training.embed("no_model", data=images, out=tmp_path / "e.csv")
    with pytest.raises(ValueError, match=r"images/test/e.npy lies in the data, .*images; pass a place outside of it"):
        star_training.embed("no_model", data=images, out=images / "test" / "e.npy")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path):
    """Features of 1,500 images, 49 kB each, would take 74 MB."""
    few, many = (pictures(tmp_path / f"{count}", 2, classes=("",)) for count in (300, 1500))
    for folder, count in ((few, 300), (many, 1500)):
        for k in range(2, count):
            os.link(folder / "000.png", folder / f"{k:05d}.png")
    status, out, err = finish(start([str(few), str(many)], program=("-c", PEAKS)))
    assert status == 0, err
    images, growth = map(float, out.split())
    assert images == 1500 and growth < 30  # MB
