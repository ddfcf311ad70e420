"""WebDataset shards, read in place."""

import tarfile

import pytest

from data_cases import (
    numbers,
    png,
    write_shards,
    write_tar,
)
from training.data import DataError, open_source


@pytest.mark.parametrize("spec", ["shard-{0000..0001}.tar", ".", "shard-{0000,0001}.tar"])
def test_shards(tmp_path, spec):
    write_shards(tmp_path, [0, 1, 2], [13, 14])
    source = open_source(str(tmp_path / spec))
    assert numbers(source) == [0, 1, 2, 13, 14] and source.targets.tolist() == [0, 1, 2, 1, 2]
    assert source.classes is None
    assert source.describe(3) == f"n/013 in {tmp_path / 'shard-0001.tar'}"


def test_single_shard_and_missing_shard(tmp_path):
    write_shards(tmp_path, [0, 1], [2])
    assert numbers(open_source(str(tmp_path / "shard-0001.tar"))) == [2]
    with pytest.raises(DataError, match=r"shard-0002.tar of .* doesn't exist"):
        open_source(str(tmp_path / "shard-{0000..0002}.tar"))


def test_shard_splits_by_file_name(tmp_path):
    for number, name in enumerate(["train-0000", "train-0001", "val-0000"]):
        write_tar(tmp_path / f"{name}.tar", {"a.png": png(number)})
    assert numbers(open_source(str(tmp_path))) == [0, 1] and numbers(open_source(str(tmp_path), "val")) == [2]
    with pytest.raises(DataError, match="no split 'extra'"):
        open_source(str(tmp_path), "extra")


def test_shard_keys_and_labels(tmp_path):
    members = {
        "a.seg.png": png(9),
        "a.png": png(1),
        "a.CLS": b"4",
        "b.JPG": png(2),
        "b.txt": b"words",
        "b.png": png(8),
        "folder.v2/c.png": png(3),
    }
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    assert numbers(source) == [1, 2, 3]
    assert source.describe(2).startswith("folder.v2/c in ")
    assert source.targets is None  # only one has a .cls
    with pytest.raises(DataError, match=r"a.cls in .* holds b'cat'"):
        open_source(str(write_tar(tmp_path / "y.tar", {"a.png": png(1), "a.cls": b"cat"})))
    with pytest.raises(DataError, match="no images found in"):
        open_source(str(write_tar(tmp_path / "z.tar", {"a.0001.png": png(1)})))


@pytest.mark.parametrize("cut", ["in an image", "in a header", "between members", "at the start"])
def test_truncated_shard(tmp_path, cut):
    path = write_tar(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2, (90, 90)), "c.png": png(3)})
    with tarfile.open(path) as tar:
        last = tar.getmember("c.png").offset
    whole = path.read_bytes()
    path.write_bytes(
        whole[
            : {"in an image": last - 600, "in a header": last + 100, "between members": last, "at the start": 80}[cut]
        ]
    )
    with pytest.raises(DataError, match=r"x.tar is not a whole, uncompressed tar file"):
        open_source(str(path))


def test_compressed_or_damaged_shard(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match="uncompressed"):
        open_source(str(tmp_path / "x.tar"))
    path = write_tar(tmp_path / "y.tar", {"a.png": png(1), "b.png": png(2)})
    data = bytearray(path.read_bytes())
    data[1024:1034] = b"X" * 10  # the second header
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged at byte 1024"):
        open_source(str(path))
