"""WebDataset shards, read in place."""

import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_cases import (
    numbers,
    png,
    write_folder,
    write_shards,
    write_tar,
)
from star_training.cli.main import main
from star_training.data import DataError, open_source
from star_training.data.streaming.stream import open_stream
from star_training.data.summary import summary


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
    assert "2 of 3 images have no .cls, the first is b" in summary(source)
    with pytest.raises(DataError, match=r"a.cls in .* holds b'cat'"):
        open_source(str(write_tar(tmp_path / "y.tar", {"a.png": png(1), "a.cls": b"cat"})))
    with pytest.raises(DataError, match=r"no images found in .*Left out: 1 .heic file \(not readable here\)"):
        open_source(str(write_tar(tmp_path / "z.tar", {"a.heic": b"x", "a.png/notes.txt": b"x"})))


def test_dots_in_names_cost_no_image(tmp_path):
    members = {
        "a.b.png": png(1), "a.b.cls": b"4", "IMG.2024.01.PNG": png(2), "IMG.2024.01.cls": b"5", "c.left.png": png(3),
        "c.right.png": png(4), "c.cls": b"6", "d.png": png(5), "d.seg.png": png(9), "d.cls": b"7", "d.jpg": png(9),
        "e.v1.png": png(6), "e.v1.mask.png": png(9), "e.v1.cls": b"8", "._d.png": b"x", "__MACOSX/d.png": b"x",
        "./f/g.h.png": png(7), "./f/g.h.cls": b"9",
    }  # fmt: skip
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    assert numbers(source) == [1, 2, 3, 4, 5, 6, 7] and source.targets.tolist() == [4, 5, 6, 6, 7, 8, 9]
    assert source.describe(2).startswith("c.left in ")
    assert summary(source) == (
        f"{tmp_path / 'x.tar'}: 7 images of 6 classes in train; 2 images share their name up to its first dot, e.g. "
        "c.left and c.right: each counts as an image; left out: 3 further images (of samples that have one), e.g. "
        "d.jpg"
    )


def add_link(tar, name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)


def test_links_are_followed_within_a_shard_and_counted_where_they_leave_it(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"in/a.png": png(1), "in/a.cls": b"3", "b.png": png(2), "b.cls": b"1"})
    with tarfile.open(path, "a") as tar:
        add_link(tar, "in/c.png", "a.png")
        add_link(tar, "in/c.cls", "../b.cls")
        add_link(tar, "in/d.png", "in/a.png", tarfile.LNKTYPE)
        add_link(tar, "in/d.cls", "./in/c.cls", tarfile.LNKTYPE)  # by way of another link
        for name, target in (("e", "/etc/hostname"), ("f", "f.png"), ("g", "../b.png"), ("h", "in")):
            add_link(tar, f"{name}.png", target)
    source = open_source(str(path))
    assert numbers(source) == [1, 2, 1, 1] and source.targets.tolist() == [3, 1, 1, 1]
    assert "left out: 4 links (to no file in the shard), e.g. e.png" in summary(source)


def test_links_that_tar_itself_wrote(tmp_path):
    folder = write_folder(tmp_path / "photos", {"a.png": png(1), "b/c.png": png(2)})
    (folder / "b/hard.png").hardlink_to(folder / "a.png")
    (folder / "soft.png").symlink_to("b/c.png")
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "x.tar", "-C", folder, "."], check=True)
    assert numbers(open_source(str(tmp_path / "x.tar"))) == [1, 2, 1, 2]


def test_a_missing_label_is_said(tmp_path, capsys):
    members = {f"{k}.png": png(k) for k in range(4)} | {f"{k}.cls": b"%d" % (k % 2) for k in (0, 1, 3)}
    for split in ("train", "test"):
        write_tar(tmp_path / f"x/{split}-0.tar", members)
    source = open_source(str(tmp_path / "x"))
    why = "1 of 4 images have no .cls, the first is 2"
    assert source.targets is None and f"4 images without labels ({why}) in train, more in test" in summary(source)
    assert main(["eval", "knn", "pixels", "--data", str(tmp_path / "x")]) == 1
    assert f"has no labels to evaluate with: {why}" in capsys.readouterr().err.splitlines()[-1]


PARTS = st.lists(st.sampled_from(["a", "b", "seg", "0001", "v1"]), min_size=1, max_size=3).map(".".join)
MEMBERS = st.lists(
    st.tuples(st.sampled_from(["", "d/", "d.1/"]), PARTS, st.sampled_from([".png", ".jpg", ".cls", ".heic", ""])),
    unique=True,
    max_size=12,
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(MEMBERS)
def test_any_names_give_the_same_images_in_a_stream_and_none_is_lost_unseen(members):
    # as writers of shards do, the members of a sample side by side
    names = sorted(map("".join, members), key=lambda n: (n.rpartition("/")[0], n.rpartition("/")[2].split(".")[0]))
    pictures = [name for name in names if name.endswith((".png", ".jpg"))]
    number = {name: k for k, name in enumerate(pictures)}
    with tempfile.TemporaryDirectory() as folder:
        path = write_tar(Path(folder, "x.tar"), {n: png(number[n]) if n in number else b"3" for n in names})
        if not pictures:
            with pytest.raises(DataError, match="no images found"):
                open_source(str(path))
            return
        source = open_source(str(path))
        assert numbers(source) == numbers(open_stream(f"stream:{path}"))
        further = re.search(r"(\d+) further images?", summary(source))
        assert len(source) + int(further[1] if further else 0) == len(pictures)
        # a name without a dot before its suffix is a sample's own
        plain = {name.rpartition(".")[0] for name in pictures if name.rpartition("/")[2].count(".") == 1}
        assert plain <= {source.describe(k).partition(" in ")[0] for k in range(len(source))}


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
    with pytest.raises(DataError, match=r"x.tar is not a complete, uncompressed tar file"):
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
