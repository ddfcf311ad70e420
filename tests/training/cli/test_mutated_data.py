"""Mutated data sets: read, or refused in one line; never another exception.

The data are those of tests/support with columns, members and files changed, and with damaged bytes. Each test has 200
inputs, because reading a data set takes 10 ms. With a thousand, which take a minute in all:

    STAR_ZOO_INPUTS=1000 pytest tests/training/cli/test_mutated_data.py
"""

import copy
import io
import json
import os
import random
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from data_cases import BROKEN, png
from detection_cases import CLASSES, scene
from mutations import change, damaged, refused_or_loaded, texts, written
from star_training.data import open_source
from star_training.data.sources.base import BadImageWarning
from star_training.data.summary import summary
from star_training.detection.datasets import pack
from star_training.detection.datasets.base import BoxWarning

COUNT = int(os.environ.get("STAR_ZOO_INPUTS", "200"))  # of a test
IMAGES = [png(10 * k) for k in range(4)]
SPLITS = ["train", "train", "train", "test"]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is cached: the time is that of reading. Bad images and boxes are expected."""
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadImageWarning)
        warnings.simplefilter("ignore", BoxWarning)
        yield


def read(path: Path) -> None:
    """Opens a data set, decodes its images and describes it."""
    source = open_source(str(path), max_bad=1)
    assert len(source) == len([source.describe(k) for k in range(len(source))]) > 0
    assert source.targets is None or len(source.targets) == len(source)
    if source.classes is not None and source.targets is not None:
        assert int(source.targets.min()) >= 0 and int(source.targets.max()) < len(source.classes)
    assert summary(source).isprintable()


def read_or_fail(path: Path) -> Callable[[], None]:
    return lambda: read(path)


# Tables


def tables(columns: dict[str, list[Any]], metadata: dict[str, Any], seed: int) -> Iterator[bytes]:
    """Parquet files with changed columns and metadata, as far as Arrow writes them, or with damaged bytes."""
    rng, whole = random.Random(seed), table(columns, metadata)
    assert whole
    made = 0
    while made < COUNT:
        changed: Any = {"columns": copy.deepcopy(columns), "metadata": copy.deepcopy(metadata)}
        for _ in range(rng.randint(1, 2)):
            inner = changed.get("columns")
            change(inner if rng.random() < 0.8 and isinstance(inner, dict) else changed, rng)
        parts = changed.get("columns"), changed.get("metadata")
        data = damaged(whole, rng, len(whole)) if made % 3 == 0 else table(*parts)
        if data is not None:
            made += 1
            yield data


def table(columns: Any, metadata: Any) -> bytes | None:
    """A Parquet file, or None if there can't be one of these columns."""
    file = io.BytesIO()
    try:
        made = pyarrow.table(columns)
        texts = {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
        pyarrow.parquet.write_table(made.replace_schema_metadata(texts), file)
    except (pyarrow.ArrowException, AttributeError, OverflowError, TypeError, UnicodeError, ValueError):
        return None
    return file.getvalue()


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_files(struct: bool, tmp_path: Path):
    images: list[Any] = [{"bytes": image, "path": "x.png"} for image in IMAGES] if struct else IMAGES
    columns = {"image": images, "label": [0, 1, 0, 1], "label_name": ["a", "b", "a", "b"], "split": SPLITS}
    names = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    path = tmp_path / "x.parquet"
    inputs = tables(columns, {"huggingface": names} if struct else {"classes": ["a", "b"]}, 20 + struct)
    refused = refused_or_loaded(written(path, read_or_fail(path)), inputs)
    assert COUNT / 5 < refused < COUNT * 4 / 5


def test_packs_with_boxes(tmp_path: Path):
    scenes = [scene(number, 8) for number in range(4)]
    boxes = [[[float(b.label), 0.5, 0.5, 0.25, 0.25] for b in found] for _, found in scenes]
    columns = {"image": IMAGES, "boxes": boxes, "split": SPLITS}
    path = tmp_path / "x.parquet"

    def load() -> None:
        found = pack.read(path, "train")
        assert len(found.fingerprint) == 16 and [found.target(k) for k in range(len(found))]
        assert [found.image(k) for k in range(len(found))]

    inputs = tables(columns, {"classes": {"-1": "none", **dict(enumerate(CLASSES))}}, 22)
    assert COUNT / 5 < refused_or_loaded(written(path, load), inputs) < COUNT * 4 / 5


# Shards


def shard(members: list[tuple[str, Any]]) -> bytes:
    """A tar file of members, each with its contents, or with the kind and the target of a link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                tar.addfile(member)
    return file.getvalue()


def members() -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for k, image in enumerate(IMAGES):
        found += [(f"n/{k}.png", image), (f"n/{k}.cls", b"%d" % (k % 2)), (f"n/{k}.txt", b"ab"[k % 2 :][:1])]
    return found


KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE]
CONTENTS = [b"", b"7", b"-1", b"9" * 99, b"cat\n", b"a\nb", b"\xff", b"x" * 300, "é ε".encode(), BROKEN, *IMAGES]


def shards() -> Iterator[bytes]:
    rng, whole = random.Random(23), shard(members())
    names = list(texts(["n/0.png", "1.cls", "a.b.txt", "n/2.seg.png", "../x.png", ".h.png"], "./ \nεa", 24, 200))
    names.remove("\ud800")  # Python itself writes no such name
    for k in range(COUNT):
        if k % 3 == 0:
            yield damaged(whole, rng, len(whole))
            continue
        found = members()
        for _ in range(rng.randint(1, 4)):
            place, kind = rng.randrange(len(found)), rng.randrange(5)
            if kind == 0:
                del found[place]
            elif kind == 1:
                found[place] = rng.choice(names), found[place][1]
            elif kind == 2:
                found[place] = found[place][0], rng.choice(CONTENTS)
            elif kind == 3:
                found[place] = found[place][0], (rng.choice(KINDS), rng.choice([rng.choice(found)[0], *names[:9]]))
            else:
                kept = rng.choice([".png", ".cls", ".txt"])  # one kind alone, or none of it
                found = [one for one in found if one[0].endswith(kept) == (rng.random() < 0.3)] or found
        yield shard(found)


def test_tar_shards(tmp_path: Path):
    path = tmp_path / "x.tar"
    refused = refused_or_loaded(written(path, read_or_fail(path)), shards())
    assert COUNT / 5 < refused < COUNT * 4 / 5


# Folders

PARTS = [
    "train", "test", "val2017", "TRAIN", "cat", "dog", "data", ".git", "__MACOSX", "a b", "x\ny", "ε", "\udcff", "0",
    "extra", "seg_train", "seg_test", "images.png",
]  # fmt: skip
FILES = ["0.png", "1.PNG", "._0.png", "2.jpg", "notes.txt", "x.heic", "a.npy", "b.tif", "Thumbs.db", "\udcfe.png"]


def folders() -> Iterator[list[tuple[str, str]]]:
    """Paths of files below a folder, each with its contents' kind."""
    rng = random.Random(25)
    kinds = ["image"] * 8 + ["broken", "empty", "dangling", "link", "above", "fifo", "folder"]
    for _ in range(COUNT):
        parts = rng.sample(PARTS, rng.randint(1, 3))
        yield [
            ("/".join([*(rng.choice(parts) for _ in range(rng.randint(0, 3))), rng.choice(FILES)]), rng.choice(kinds))
            for _ in range(rng.randint(1, 6))
        ]


def make(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("dangling", "link", "above"):
        path.symlink_to({"dangling": "nowhere", "link": "0.png", "above": ".."}[kind])
    else:
        path.write_bytes({"image": IMAGES[0], "broken": BROKEN, "empty": b""}[kind])


def test_folders(tmp_path: Path):
    root = tmp_path / "root"

    def load(files: list[tuple[str, str]]) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, kind in files:
            place = root / name
            if not os.path.lexists(place) and all(folder.is_dir() or not folder.exists() for folder in place.parents):
                make(place, kind)
        read(root)

    assert COUNT / 5 < refused_or_loaded(load, folders()) < COUNT * 4 / 5
