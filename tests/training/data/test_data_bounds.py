"""Files whose contents ask for more memory than they take: refused, or counted as bad, before it is allocated."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_cases import png, write_folder, write_parquet, write_tar
from memory import at_most
from star_catalog import machine
from star_training.data import DataError, open_source
from star_training.data.decode import MOST_ENCODED, UndecodableImage, decode
from star_training.data.sources import parquet_rows
from star_training.data.sources.tar import images as tar
from star_training.data.streaming import shards
from star_training.data.streaming.hub_shards import _bytes
from star_training.detection.datasets import pack

MB = 2**20


def bomb(path: Path, rows: int, size: int) -> str:
    """A Parquet file that stores one value for all its rows."""
    value = pyarrow.array([bytes(size)])
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), value)
    table = pyarrow.table({"image": column.cast(pyarrow.binary())} if rows * size < 100 * MB else {"image": column})
    pyarrow.parquet.write_table(table, path, dictionary_pagesize_limit=2**30)
    return str(path)


def test_rows_that_hold_more_than_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """20 GB in a file of less than a megabyte, on a machine of 200 MB."""
    path = bomb(tmp_path / "x.parquet", 200_000, 100_000)
    assert Path(path).stat().st_size < MB
    monkeypatch.setattr(parquet_rows, "memory", lambda: 200 * MB)
    with at_most(2**30), pytest.raises(DataError, match="need more memory than half of this machine's; write tar"):
        open_source(path)


def test_all_row_groups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows in three row groups, read to exactly the limit."""
    files = [write_parquet(tmp_path / "x.parquet", image=[png(k) for k in range(6)], label=[0] * 6)]
    whole, places = parquet_rows.read_rows(files, {"image": "image"}, None)
    assert len(places) == 6 and whole["image"].num_chunks >= 3
    for size, refused in ((2 * whole.nbytes, False), (2 * whole.nbytes - 2, True)):
        monkeypatch.setattr(parquet_rows, "memory", lambda size=size: size)
        if refused:
            with pytest.raises(DataError, match="need more memory"):
                parquet_rows.read_rows(files, {"image": "image"}, None)
        else:
            assert parquet_rows.read_rows(files, {"image": "image"}, None)[0] == whole


def test_boxes_and_classes_of_a_pack_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hundred thousand boxes in a file of some kilobytes, on a machine of 50 MB; and a class of any number."""
    path = tmp_path / "x.parquet"
    rows = {"image": [png(1)] * 100, "boxes": [[[0, 0.5, 0.5, 0.1, 0.1]] * 1000] * 100, "split": ["train"] * 100}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    assert path.stat().st_size < MB / 10
    monkeypatch.setattr(pack, "memory", lambda: 50 * MB)
    with at_most(2**30), pytest.raises(DataError, match="the boxes of .* need more memory than half of this machine's"):
        pack.read(path, "train")
    rows = {"image": [png(1)], "boxes": [[[0, 0.5, 0.5, 0.1, 0.1]]], "split": ["train"]}
    names = {"classes": json.dumps({"0": "a", str(2**62): "b"})}
    pyarrow.parquet.write_table(pyarrow.table(rows).replace_schema_metadata(names), path)
    with at_most(2**30), pytest.raises(DataError, match="a class above 65,535; number the classes from 0"):
        pack.read(path, "train")


def test_memory_is_that_of_the_kernel():
    text = Path("/proc/meminfo").read_text()
    assert machine.memory() == pytest.approx(1024 * int(text.split()[1]), rel=0.05)


def test_an_encoded_image_is_bounded(tmp_path: Path):
    folder = write_folder(tmp_path, {"0.png": png(4)})
    with (folder / "1.png").open("wb") as file:
        file.truncate(MOST_ENCODED + 1)  # takes no room on the disk
    with at_most(2**29), pytest.raises(UndecodableImage, match="1,073,741,825 bytes, more than an image may have"):
        decode(folder / "1.png")


def test_a_member_of_a_tar_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_tar(tmp_path / "x.tar", {"a.png": png(4), "b.png": bytes(MB + 1)})
    monkeypatch.setattr(tar, "MOST_ENCODED", MB)
    monkeypatch.setattr(shards, "MOST_ENCODED", MB)
    with pytest.raises(UndecodableImage, match="1,048,577 bytes, more than an image may have"):
        tar.open_tar({"train": [path]}, "train").encoded(1)
    good, bad = shards.TarShards((str(path),)).read(0)
    assert good.data == png(4) and bad.data == b"" and "1,048,577 bytes, which are too many" in bad.where


def test_a_label_in_a_tar_file_is_bounded(tmp_path: Path):
    path = write_tar(tmp_path / "x.tar", {"a.png": png(4), "a.cls": b"7" + b" " * 50_000_000})
    with pytest.raises(DataError, match=r"a\.cls in .* a \.cls member must hold one integer"):
        open_source(str(path))


def test_a_row_of_a_streamed_data_set_names_no_file_outside(tmp_path: Path):
    write_folder(tmp_path, {"set/0.png": png(1), "secret.png": png(2)})
    folders = (tmp_path / "set",)
    assert _bytes({"bytes": None, "path": str(tmp_path / "set/0.png")}, folders) == png(1)
    for path in (str(tmp_path / "secret.png"), "../secret.png", "/dev/zero", f"file://{tmp_path}/secret.png"):
        assert _bytes({"bytes": None, "path": path}, folders) == b""
        assert _bytes({"bytes": None, "path": f"zip://0.png::{path}"}, folders) == b""
    assert _bytes({"bytes": png(3), "path": "/dev/zero"}, folders) == png(3)
