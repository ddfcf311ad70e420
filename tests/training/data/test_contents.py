"""A fingerprint is of contents: no change of the data escapes it, and no cache answers for what has changed."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from content_cases import KINDS, opened, overwrite, rows
from data_cases import flat_folder, png, write_parquet
from detection_cases import write_coco, write_voc
from star_training.data import contents, open_source
from star_training.detection.datasets.open import open_set


def changes() -> dict[str, list]:
    """Data of the same sizes that differ from `rows()`."""
    swapped, relabelled, other = rows(), rows(), rows()
    swapped[0], swapped[2] = swapped[2], swapped[0]
    relabelled[0], relabelled[1] = (relabelled[0]._replace(label=1), relabelled[1]._replace(label=0))
    other[3] = other[3]._replace(image=png(200))
    return {"reordered": swapped, "relabelled": relabelled, "overwritten": other}


@pytest.fixture(scope="module")
def settled(tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """Each kind's folder and spec, old enough that what is known of its files is kept."""
    root = tmp_path_factory.mktemp("kinds")
    made = {kind: (root / str(k), write(root / str(k), rows())) for k, (kind, write) in enumerate(KINDS.items())}
    time.sleep(contents._SETTLED + 0.1)
    return made


def files(root: Path, count: int) -> list[Path]:
    flat_folder(root, count)
    return sorted(root.iterdir())


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A store of its own, whose folder of kept digests is not there yet."""
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home/contents"


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_changes_is_seen_although_sizes_and_times_stay(kind: str, settled, tmp_path: Path, monkeypatch):
    root, spec = settled[kind]
    before = opened(spec).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(contents, "_digest", lambda file: pytest.fail(f"{file} is read again"))
        assert opened(spec).fingerprint == before  # from what was kept
    seen = {before}
    for name, changed in changes().items():
        KINDS[kind](tmp_path / name, changed)
        overwrite(root, tmp_path / name)
        assert opened(spec).fingerprint not in seen
        seen.add(opened(spec).fingerprint)
    for count in (7, 9):
        shutil.rmtree(root)
        assert KINDS[kind](root, rows(count)) == spec
        assert opened(spec).fingerprint not in seen
        seen.add(opened(spec).fingerprint)
    shutil.rmtree(root)
    KINDS[kind](root, rows())
    assert opened(spec).fingerprint == before  # the same data again, in other files


def test_the_order_of_classes_is_part_of_it(tmp_path: Path):
    row = {"image": [png(1), png(2)], "label": [0, 1]}
    paths = [
        write_parquet(tmp_path / name / "x.parquet", {"classes": json.dumps(classes)}, **row)
        for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"]))
    ]
    first, second = (open_source(str(path)) for path in paths)
    assert torch.equal(first.targets, second.targets) and first.fingerprint != second.fingerprint


def test_files_that_have_just_changed_are_read_each_time(home: Path, tmp_path: Path):
    some = files(tmp_path / "x", 3)
    seen = {contents.of_files(some)}
    for number in range(20):  # faster than many a clock ticks
        some[1].write_bytes(png(100 + number))
        seen.add(contents.of_files(some))
    assert len(seen) == 21 and not home.exists()


def test_a_damaged_entry_is_made_anew(home: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(contents, "_SETTLED", -1.0)  # these files won't change
    some = files(tmp_path / "x", 3)
    made = contents.of_files(some)
    (entry,) = home.iterdir()
    whole = entry.read_bytes()
    for damaged in (b"", whole[:-5], b"0" + whole[1:], b"\xff" + whole, whole + whole, bytes(len(whole))):
        if damaged != whole:
            entry.write_bytes(damaged)
            assert contents.of_files(some) == made and entry.read_bytes() == whole
    other = contents.of_files(some[:2])
    (second,) = set(home.iterdir()) - {entry}
    second.write_bytes(whole)  # whole, but of other files
    assert contents.of_files(some[:2]) == other != made
    entry.unlink()
    entry.mkdir()
    assert contents.of_files(some) == made


@pytest.mark.parametrize("where", ["/dev/null/home", "/proc/home"])
def test_a_home_that_can_not_be_written_costs_only_time(where: str, tmp_path: Path, monkeypatch):
    some = files(tmp_path / "x", 3)
    before = contents.of_files(some)
    monkeypatch.setenv("STAR_ZOO_HOME", where)
    monkeypatch.setattr(contents, "_SETTLED", -1.0)
    assert contents.of_files(some) == before


def test_what_is_kept_is_bounded(home: Path, monkeypatch):
    monkeypatch.setattr(contents, "_MOST_KEPT", 5)
    for number in range(20):
        contents.keep(f"{number:02d}", str(number))
        os.utime(home / f"{number:02d}", (number, number))
    assert sorted(p.name for p in home.iterdir()) == [f"{number:02d}" for number in range(15, 20)]
    assert contents.kept("17") == "17" and contents.kept("01") is None


def test_processes_that_keep_and_read_at_once_agree(home: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(contents, "_SETTLED", -1.0)
    some = files(tmp_path / "x", 5)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made = pool.map(contents.of_files, [some] * 40, chunksize=1)
    assert set(made) == {contents.of_files(some)} and len(list(home.iterdir())) == 1


def test_files_that_are_missing_or_closed_to_the_reader_are_images_like_others(home: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(contents, "_SETTLED", -1.0)
    some = files(tmp_path / "x", 3)
    whole = contents.of_files(some)
    some[1].unlink()
    some[1].symlink_to(tmp_path / "later.png")
    missing = contents.of_files(some)
    (tmp_path / "later.png").write_bytes(png(1))  # what was there
    assert contents.of_files(some) == whole != missing
    entries = set(home.iterdir())
    some[1].unlink()
    some[1].mkdir()  # can't be read as a file
    assert contents.of_files(some) not in (whole, missing)
    assert set(home.iterdir()) == entries  # it may be readable the next time


def test_a_long_reading_is_explained_once(tmp_path: Path, monkeypatch, capsys):
    some = files(tmp_path / "x", 40)
    contents.of_files(some)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(contents, "_PATIENCE", -1.0)
    contents.of_files(some)
    assert capsys.readouterr().err.count("hashing the contents of 40 files") == 1


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_images_with_boxes_are_known_by_their_contents_too(layout: str, tmp_path: Path):
    def write(root: Path, numbers: list[int]) -> str:
        return str(write_voc(root, {"train": numbers}) if layout == "voc" else write_coco(root, "train2017", numbers))

    spec = write(tmp_path / "x", [1, 2])
    before = open_set(spec, "train").fingerprint
    images = sorted(path for path in Path(spec).rglob("*") if path.suffix in (".jpg", ".png"))
    data = bytearray(images[0].read_bytes())
    data[len(data) // 2] ^= 1
    images[0].write_bytes(data)
    assert open_set(spec, "train").fingerprint != before
