"""`embed`: files that it must not replace, images of other channels, labels and names of all kinds."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import star_training
from data_cases import encoded, write_parquet
from finetune_cases import coloured
from runs import pictures
from star_training.cli.main import main
from star_zoo import save_pretrained
from twins import backbone

PNG = encoded(Image.new("RGB", (8, 8)), "PNG")


@pytest.mark.parametrize("spelled", ["{}", "{}:image=image", "data"])
def test_the_data_are_not_replaced(spelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAR_ZOO_DATA", str(tmp_path))
    data = write_parquet(tmp_path / "data.parquet", image=[PNG, PNG])
    before = data.read_bytes()
    with pytest.raises(ValueError, match=r"data\.parquet holds the data; pass another file"):
        star_training.embed("pixels", data=spelled.format(data), out=data)
    assert data.read_bytes() == before


def test_a_users_table_beside_the_array_is_not_replaced(tmp_path: Path):
    flat = pictures(tmp_path / "flat", 3, classes=("",))
    (tmp_path / "e.csv").write_text("my,own,labels\n")
    with pytest.raises(ValueError, match=r"e\.csv, which would list the images, holds something else"):
        star_training.embed("pixels", data=flat, out=tmp_path / "e.npy")
    assert (tmp_path / "e.csv").read_text() == "my,own,labels\n"
    (tmp_path / "e.csv").unlink()
    for _ in range(2):  # the second time over the first's files
        star_training.embed("pixels", data=flat, out=tmp_path / "e.npy")


def test_a_model_of_one_channel_reads_grey_images(tmp_path: Path):
    model = save_pretrained(tmp_path / "m", backbone(in_chans=1), model_args={"in_chans": 1})
    flat = pictures(tmp_path / "flat", 3, classes=("",))
    assert star_training.embed(model, data=flat, out=tmp_path / "e.parquet").array().shape[0] == 3


def test_numbers_may_be_missing_in_a_split(tmp_path: Path):
    labels = [0.5, 1.5, None, None]
    data = write_parquet(
        tmp_path / "d.parquet", image=[PNG] * 4, label=labels, split=["train", "train", "test", "test"]
    )
    for first, second in (("train", "test"), ("test", "train")):
        swapped = [{"train": first, "test": second}[s] for s in ("train", "train", "test", "test")]
        data = write_parquet(tmp_path / "d.parquet", image=[PNG] * 4, label=labels, split=swapped)
        found = star_training.embed("pixels", data=data, out=tmp_path / "e.parquet")
        by_split = dict(zip(found.column("split"), found.column("label"), strict=True))
        assert by_split == {first: [1.5], second: None}


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path):
    folder = coloured(tmp_path / "images", 6, 3)
    for split in ("train", "test"):
        (folder / split / "red").rename(os.fsdecode(os.fsencode(folder / split) + b"/caf\xe9"))
    for name in ("e.parquet", "e.npy"):
        star_training.embed("pixels", data=folder, out=tmp_path / name)
    table = pq.read_table(tmp_path / "e.parquet")
    assert "caf\\udce9" in table["class"].to_pylist() and "caf\\udce9" in (tmp_path / "e.csv").read_text()


@pytest.mark.parametrize("words", [["pretrain", "folder"], ["finetune", "untrained:test_resnet"]])
def test_a_run_may_not_lie_in_its_data(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The figures of its report would become training images."""
    data = coloured(tmp_path / "images", 6, 3)
    for out in (data / "run", data):
        assert main([*words, "--data", str(data), "--out", str(out)]) == 1
        assert f"{out} lies in the data, {data}; pass a place outside of it" in capsys.readouterr().err
    assert sorted(path.name for path in data.iterdir()) == ["test", "train"]
