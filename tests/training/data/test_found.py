"""Evaluating without `--data`: the data sets that lie on this machine."""

import json
from pathlib import Path

import pytest

from runs import pictures
from star_training.cli.main import main
from star_training.data import DataError
from star_training.data.eval_sets.local import found, home


def test_files_and_folders_are_found_and_sets_of_the_paper_by_their_name(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("STAR_ZOO_DATA", str(tmp_path))
    for name in ("shapes", "pets", "splits"):  # the last one without images
        (tmp_path / name).mkdir()
    for name in ("b.parquet", "README.md", "shapes/0.png", "splits/train.txt"):
        (tmp_path / name).touch()
    assert found() == [str(tmp_path / "b.parquet"), f"pets@{tmp_path / 'pets'}", str(tmp_path / "shapes")]


def test_the_default_is_beside_the_store(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("STAR_ZOO_DATA", raising=False)
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path))
    assert home() == tmp_path / "data"
    with pytest.raises(DataError, match=r"is not a folder; pass --data, or set STAR_ZOO_DATA to a folder"):
        found()
    home().mkdir()
    with pytest.raises(DataError, match="holds no data sets"):
        found()


def test_a_protocol_runs_on_what_is_there_and_says_what_it_leaves_out(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("STAR_ZOO_DATA", str(tmp_path / "data"))
    for split in ("train", "test"):
        pictures(tmp_path / "data" / "shapes" / split, 8)
    (tmp_path / "data" / "broken.parquet").write_bytes(b"PAR1")
    out = tmp_path / "results.json"
    assert main(["eval", "knn", "pixels", "--out", str(out)]) == 0
    assert [r["data"] for r in json.loads(out.read_text())["evaluations"]] == ["shapes"]
    captured = capsys.readouterr()
    assert "knn on broken left out:" in captured.out
    assert captured.err == f"{tmp_path / 'data' / 'shapes'}: 8 images of 2 classes in train, 8 in test\n"
