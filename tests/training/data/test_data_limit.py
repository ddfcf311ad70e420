"""Subsets, and the fingerprint by which a resumed run knows its images."""

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_cases import (
    flat_folder,
    numbers,
    png,
    write_folder,
    write_parquet,
    write_tar,
)
from star_training.data import open_source
from star_training.data.sources.raw import evenly_spaced


def test_limit_is_evenly_spaced_and_chosen_before_decoding(tmp_path):
    flat_folder(tmp_path, 101, broken=[n for n in range(101) if n % 25])  # with 0, 25, 50, 75, 100 good
    source = open_source(str(tmp_path), limit=5)
    assert numbers(source) == [0, 25, 50, 75, 100]
    assert source.describe(1).endswith("025.png")
    assert len(open_source(str(tmp_path), limit=1)) == 1
    assert len(open_source(str(flat_folder(tmp_path / "few", 3)), limit=5)) == 3


@given(st.integers(1, 10**9), st.integers(1, 300))
def test_evenly_spaced_indices_are_distinct_and_reach_both_ends(total, count):
    indices = evenly_spaced(total, count)
    gaps = indices.diff()
    assert len(indices) == min(total, count) and indices[0] == 0
    if len(gaps):
        assert indices[-1] == total - 1 and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_limit_reaches_every_class_and_its_labels(tmp_path):
    source = open_source(
        str(write_folder(tmp_path, {f"{c}/{n}.png": png(n) for c in "abcd" for n in range(10)})), limit=8
    )
    assert source.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and len(source) == 8


def test_folder_fingerprint(tmp_path):
    def fingerprint(folder="x", **settings):
        return open_source(str(tmp_path / folder), **settings).fingerprint

    flat_folder(tmp_path / "x", 5)
    before = fingerprint()
    os.utime(tmp_path / "x/000.png", (1, 1))
    assert fingerprint() == fingerprint(cache_bytes=0) == before
    shutil.copytree(tmp_path / "x", tmp_path / "elsewhere")
    assert fingerprint("elsewhere") == before
    seen = {before, fingerprint(limit=3), fingerprint(limit=4)}
    (tmp_path / "x/000.png").write_bytes(png(0, (50, 60)))
    seen.add(fingerprint())
    (tmp_path / "x/new.png").write_bytes(png(0))
    seen.add(fingerprint())
    (tmp_path / "x/new.png").rename(tmp_path / "x/other.png")
    seen.add(fingerprint())
    (tmp_path / "x/other.png").unlink()
    seen.add(fingerprint())
    assert len(seen) == 6 and all(int(value, 16) >= 0 for value in seen)  # the last is the third again


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_pack_fingerprint(tmp_path, kind):
    def write(name, count):
        if kind == "tar":
            return write_tar(tmp_path / name / "x.tar", {f"{n}.png": png(n) for n in range(count)})
        return write_parquet(
            tmp_path / name / "x.parquet",
            image=[png(n) for n in range(count)],
            split=["train", "test"] * (count // 2),
        )

    path = write("a", 4)
    before = open_source(str(path)).fingerprint
    os.utime(path, (1, 1))
    assert open_source(str(path)).fingerprint == open_source(str(write("b", 4))).fingerprint == before
    assert open_source(str(write("c", 6))).fingerprint != before
    path.rename(path.with_stem("y"))
    assert open_source(str(path.with_stem("y"))).fingerprint != before
    if kind == "parquet":
        assert (
            open_source(str(path.with_stem("y")), "test").fingerprint
            != open_source(str(path.with_stem("y"))).fingerprint
        )


def test_fingerprint_of_sets_without_files_follows_the_labels(tmp_path):
    for name, labels in (("a", [0, 1]), ("b", [1, 1])):
        write_folder(
            tmp_path / name,
            {
                f"country211/{s}/{'ab'[label]}/{n}.png": png(n)
                for s in ("train", "valid", "test")
                for n, label in enumerate(labels)
            },
        )
    first, second = (open_source(f"torchvision:Country211@{tmp_path / name}").fingerprint for name in "ab")
    assert first != second
