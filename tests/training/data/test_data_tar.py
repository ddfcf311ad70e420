"""WebDataset shards, read in place."""

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
    assert summary(source).endswith(
        "; left out: b.png, a.seg.png (further images of samples that have one), b.txt (texts that aren't labels)"
    )
    with pytest.raises(DataError, match=r"a.cls in .* holds b'cat'"):
        open_source(str(write_tar(tmp_path / "y.tar", {"a.png": png(1), "a.cls": b"cat"})))
    reasons = r"a.heic \(not readable here\); a.png/notes.txt \(labels of no image\)"
    with pytest.raises(DataError, match=rf"no images found in .*Left out: {reasons}"):
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
        "c.left and c.right: each counts as an image; left out: d.jpg, d.seg.png, e.v1.mask.png (further images of "
        "samples that have one), ._d.png, __MACOSX/d.png (hidden files)"
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
    assert "left out: e.png, f.png, g.png and 1 more (links to no file in the shard)" in summary(source)


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
    why = "1 of 4 images of the split 'train' have no .cls, the first is 2"
    assert source.targets is None and f"4 images without labels ({why}) in train, more in test" in summary(source)
    assert main(["eval", "knn", "pixels", "--data", str(tmp_path / "x")]) == 1
    assert f"has no labels to evaluate with: {why}" in capsys.readouterr().err.splitlines()[-1]


# Names of classes in .txt members


def texts(path: Path, **given: str | bytes) -> Path:
    """A shard of images with a text each."""
    members = {}
    for k, (key, text) in enumerate(given.items()):
        members |= {f"{key}.png": png(k), f"{key}.txt": text.encode() if isinstance(text, str) else text}
    return write_tar(path, members)


def test_texts_name_classes_over_all_splits(tmp_path):
    texts(tmp_path / "train-0.tar", a="wolf\n", b="cat", c="  wolf", d="\ufeffgreat white shark, white shark")
    texts(tmp_path / "test-0.tar", a="cat", b="bear", c="wolf", d="élan")
    classes = ("bear", "cat", "great white shark, white shark", "wolf", "élan")
    for split, labels in (("train", [3, 1, 3, 2]), ("test", [1, 0, 3, 4])):
        source = open_source(str(tmp_path), split)
        assert source.classes == classes and source.targets.tolist() == labels
    assert summary(source) == f"{tmp_path}: images of 5 classes in train, 4 in test"
    before = source.fingerprint
    texts(tmp_path / "train-0.tar", a="ant", b="ant")
    assert open_source(str(tmp_path), "test").fingerprint != before  # other numbers


def test_numbers_come_before_texts(tmp_path):
    members = {f"{k}.{kind}": data for k in range(3) for kind, data in (("png", png(k)), ("txt", b"cat"))}
    path = write_tar(tmp_path / "x.tar", members | {f"{k}.cls": b"%d" % (2 - k) for k in range(3)})
    source = open_source(str(path))
    assert source.targets.tolist() == [2, 1, 0] and source.classes is None
    assert "; left out: 0.txt, 1.txt, 2.txt (texts that aren't labels)" in summary(source)
    texts(tmp_path / "y" / "test-0.tar", a="cat", b="cat")
    path.rename(tmp_path / "y" / "train-0.tar")
    source = open_source(str(tmp_path / "y"), "test")
    assert source.targets is None and "(another split has .cls members" in summary(source)


MANY = {f"k{k}": f"a dog number {k}" for k in range(150)} | {f"m{k}": "a dog" for k in range(100)}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"a": "a dog", "b": "a cat", "c": "a fish"}, "captions, not classes: there are 3 different ones for 3 images"),
        (MANY, "captions, not classes: there are 151 different ones for 250 images"),
        ({"a": "dog", "b": "dog", "c": "x" * 201}, "captions, not classes: c.txt has 201 bytes"),
        ({"a": "dog", "b": "dog\ncat", "c": "dog"}, "captions, not classes: b.txt has several lines"),
        ({"a": "dog", "b": "dog", "c": b"\xff"}, "captions, not classes: c.txt isn't UTF-8"),
        ({"a": "dog", "b": "dog", "c": " \n"}, "1 of 3 images have no text in a .txt, the first is c"),
    ],
)
def test_texts_that_are_not_classes_leave_images_without_labels(tmp_path, given, why: str):
    source = open_source(str(texts(tmp_path / "x.tar", **given)))
    assert source.targets is None and source.classes is None and len(source) == len(given)
    first = ", ".join(f"{key}.txt" for key in list(given)[:3])
    assert why in summary(source) and f"left out: {first}" in summary(source)


def test_one_class_may_have_fewer_images_than_there_are_classes(tmp_path):
    source = open_source(str(texts(tmp_path / "x.tar", **{f"k{k}": f"class {k % 99:02d}" for k in range(100)})))
    assert source.targets.tolist() == [k % 99 for k in range(100)] and source.classes[98] == "class 98"


def test_the_texts_of_captions_are_not_read(tmp_path, monkeypatch: pytest.MonkeyPatch):
    path = texts(tmp_path / "x.tar", a="dog", b="y" * 300, **{f"k{k}": "dog" for k in range(50)})
    read: list[str] = []
    extract = tarfile.TarFile.extractfile
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda tar, m: (read.append(m.name), extract(tar, m))[1])
    assert open_source(str(path)).targets is None and read == ["a.txt"]


PARTS = st.lists(st.sampled_from(["a", "b", "seg", "0001", "v1"]), min_size=1, max_size=3).map(".".join)
MEMBERS = st.lists(
    st.tuples(st.sampled_from(["", "d/", "d.1/"]), PARTS, st.sampled_from([".png", ".jpg", ".cls", ".heic", ""])),
    unique=True,
    max_size=12,
)


NEITHER = {"a", "b", "seg", "0001", "v1", ""}  # what remains of a name without a suffix of ours


def extension(name: str) -> str:
    """The text after the last dot of a file's name."""
    return name.rpartition("/")[2].rpartition(".")[2] if "." in name.rpartition("/")[2] else ""


def listed(source, why: str) -> int:
    """The number of members that the summary line lists with a reason."""
    (found,) = [part for part in source.inventory.left_out if part.endswith(f" ({why})")] or [""]
    names, _, more = found.removesuffix(f" ({why})").partition(" and ")
    assert found in summary(source)
    return len(names.split(", ")) + int(more.split()[0] if more else 0) if found else 0


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
        assert len(source) + listed(source, "further images of samples that have one") == len(pictures)
        unreadable = [name for name in names if name.endswith(".heic")]
        assert listed(source, "not readable here") == len(unreadable)
        assert listed(source, "neither images nor labels") == sum(extension(name) in NEITHER for name in names)
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
