"""Disks that fill up, folders that may not be written, files that vanish, clocks that jump, images that change.

Each ends in one line that says what to do, or changes nothing; what goes on afterwards ends with the same bits.
"""

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from content_cases import KINDS, overwrite, rows
from data_cases import png, write_tar
from runs import NOISY, STEPS, assert_equal, at_step, command, entries, exported, stopped_at, tiny
from star_training.cli.main import main
from star_training.data import open_source
from star_training.messages import RESUME
from star_training.pretraining import run as pretrain
from star_training.pretraining.run import Run

# contiguous, because a user who may not write anywhere may not try channels_last out either
SAVED = (*NOISY, "channels_last=false", "run.checkpoint_every=1", "run.eval_every=0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(out, settings=SAVED)) == 0
    return out


def refusal(capsys, arguments: list[str]) -> str:
    """The one line in which a command fails."""
    capsys.readouterr()
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("star-zoo: ")
    return line


def goes_on(out: Path, whole: Path) -> None:
    """To the same bits, with nothing left behind and each step logged once."""
    assert main(command(out, "--resume", settings=SAVED)) == 0
    assert_equal(exported(out), exported(whole))
    assert [e["step"] for e in entries(out)] == [*range(1, STEPS + 1)]
    assert {p.name for p in out.rglob("*")} == {p.name for p in whole.rglob("*")}


# Full disks


@contextlib.contextmanager
def disk() -> Iterator[Callable[[int], None]]:
    """Gives what fills the disk, as if no file could grow beyond so many bytes; it has room again at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda count: resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_the_start_names_the_file(whole: Path, tmp_path: Path, capsys):
    with disk() as fills_at:
        fills_at(20_000)
        line = refusal(capsys, command(tmp_path / "run", settings=SAVED))
    assert line.endswith("/run/export/model.safetensors can't be written: File too large; make room")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert main(command(tmp_path / "run", settings=SAVED)) == 0
    assert_equal(exported(tmp_path / "run"), exported(whole))


def test_a_log_on_a_full_disk_ends_in_one_line(whole: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "run"
    unsaved = (*SAVED, "run.checkpoint_every=1000")
    with disk() as fills_at, monkeypatch.context() as patch:
        at_step(patch, 4, lambda run: fills_at((out / "log.jsonl").stat().st_size + 10))
        line = refusal(capsys, command(out, settings=unsaved))
    assert line.endswith(f"{out / 'log.jsonl'} can't be written: File too large; make room, then {RESUME}")
    assert [e["step"] for e in entries_but_last(out)] == [1, 2, 3]
    goes_on(out, whole)


def entries_but_last(out: Path) -> list[dict]:
    """The log's entries where the last line was cut short."""
    kept, cut = (out / "log.jsonl").read_text().rsplit("\n", 1)
    assert len(cut) == 10
    (out / "log.jsonl").write_text(kept + "\n")
    found = entries(out)
    (out / "log.jsonl").write_text(f"{kept}\n{cut}")
    return found


def test_an_export_on_a_full_disk_ends_in_one_line(whole: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "run"
    with disk() as fills_at, monkeypatch.context() as patch:

        def save(folder: Path, *args, **settings):
            if not folder.name.startswith(".trial-"):  # the attempt before the first step
                fills_at(100_000)
            return pretrain_save(folder, *args, **settings)

        pretrain_save = pretrain.save_pretrained
        patch.setattr(pretrain, "save_pretrained", save)
        line = refusal(capsys, command(out, settings=SAVED))
    file = out / "export" / "model.safetensors"
    assert line == f"star-zoo: {file} can't be written: File too large; make room, then {RESUME} to export it"
    assert not any((out / "export").iterdir())
    goes_on(out, whole)


def test_a_disk_that_is_really_full_costs_no_bit(whole: Path, tmp_path: Path, capsys):
    size = sum(path.stat().st_size for path in (whole / "checkpoints").iterdir())  # of two: a third has no room
    out = tmp_path / "disk" / "run"
    out.parent.mkdir()
    if not mounted(out.parent, "mount", "-t", "tmpfs", "-o", f"size={size + 2**20}", "tmpfs"):
        pytest.skip("only a privileged user may mount a small disk")
    try:
        line = refusal(capsys, command(out, settings=SAVED))
        assert f"can't be written: No space left on device; make room, then {RESUME}; the last good" in line
        assert line.endswith(f" checkpoint is {out}/checkpoints/step-000000002.safetensors")
        assert len([*(out / "checkpoints").iterdir()]) == 2
        assert mounted(out.parent, "mount", "-o", f"remount,size={4 * size}")
        goes_on(out, whole)
    finally:
        mounted(out.parent, "umount")


def mounted(folder: Path, *words: str) -> bool:
    if os.geteuid() != 0 or shutil.which(words[0]) is None:
        return False
    return subprocess.run([*words, str(folder)], capture_output=True).returncode == 0


# Folders that may not be written


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder that belongs to nobody, so that root too can be refused there."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Within it the process is nobody, if it was root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_that_may_not_be_written(place: Path, capsys):
    place.chmod(0o555)
    with nobody():
        line = refusal(capsys, command(place / "run", settings=SAVED))
    assert "Permission denied" in line and str(place / "run") in line
    assert [*place.iterdir()] == []


def test_a_folder_that_may_not_be_written_any_more(whole: Path, place: Path, monkeypatch, capsys):
    out = place / "run"
    with nobody(), monkeypatch.context() as patch:
        at_step(patch, 4, lambda run: (out / "checkpoints").chmod(0o555))
        line = refusal(capsys, command(out, settings=SAVED))
    assert "Permission denied" in line and "the last good checkpoint is " in line and "--resume" in line
    (out / "checkpoints").chmod(0o755)
    goes_on(out, whole)


# Files that vanish


@pytest.mark.parametrize("lost", ["the newest", "all", "all and their folder"])
def test_a_run_goes_on_from_what_is_left_of_its_checkpoints(whole: Path, tmp_path: Path, monkeypatch, lost: str):
    stopped_at(monkeypatch, tiny(*SAVED), tmp_path / "run", 5)
    folder = tmp_path / "run" / "checkpoints"
    paths = sorted(folder.iterdir())
    assert len(paths) == 2
    for path in paths[-1:] if lost == "the newest" else paths:
        path.unlink()
    if "folder" in lost:
        folder.rmdir()
    assert Run(tiny(*SAVED), tmp_path / "run", resume=True).step == (4 if lost == "the newest" else 0)
    goes_on(tmp_path / "run", whole)


def test_a_log_that_vanished_is_begun_anew(whole: Path, tmp_path: Path, monkeypatch):
    stopped_at(monkeypatch, tiny(*SAVED), tmp_path / "run", 5)
    (tmp_path / "run" / "log.jsonl").unlink()
    assert main(command(tmp_path / "run", "--resume", settings=SAVED)) == 0
    assert_equal(exported(tmp_path / "run"), exported(whole))
    assert [e["step"] for e in entries(tmp_path / "run")] == [*range(6, STEPS + 1)]


# Clocks


@pytest.mark.parametrize("step", [-1.0, 0.0])
def test_a_clock_that_goes_backwards_or_stands_changes_nothing(whole: Path, tmp_path: Path, monkeypatch, step: float):
    out = tmp_path / "run"
    for resume, start in ((False, 1e6), (True, -1e6)):  # the second life is earlier than the first
        with monkeypatch.context() as patch:
            for clock in ("perf_counter", "monotonic", "time"):
                ticks = itertools.count(start, step) if step else itertools.repeat(start)
                patch.setattr(time, clock, lambda ticks=ticks: next(ticks))
            if resume:
                Run(tiny(*SAVED), out, resume=True).train()
            else:
                stopped_at(patch, tiny(*SAVED), out, 4)
    assert_equal(exported(out), exported(whole))
    logged = entries(out)
    assert [e["step"] for e in logged] == [*range(1, STEPS + 1)]
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(logged))
    assert all(e["images_per_second"] > 0 and e["data_wait"] >= 0 for e in logged)


# Images that change between the lives of a run

SMALL = ("data.max_bad=0.5", "epochs=1", "run.checkpoint_every=1", "backbone=test_resnet", "batch_size=8")
SMALL = (
    *SMALL,
    "precision=no",
    "policy.augmentations.0.size=32",
    "objective_args.num_experts=2",
    "run.workers=0",
    "run.eval_every=0",
)


def on_images(data: str, out: Path, *more: str) -> list[str]:
    made = ["pretrain", "folder", "--data", data, "--out", str(out), *more]
    for setting in (*SMALL, *(["data.images=24"] if data.startswith("stream:") else [])):
        made += ["--set", setting]
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_changed_are_refused_and_the_same_ones_elsewhere_are_not(kind: str, tmp_path: Path, capsys):
    out, where, write = tmp_path / "run", tmp_path / "images", KINDS[kind]
    data = write(where, rows(24))
    assert main(on_images(data, out)) == 0
    steps = (out / "log.jsonl").read_text()
    write(tmp_path / "reordered", [*rows(24)[2:], *rows(24)[:2]])
    overwrite(where, tmp_path / "reordered")  # sizes and times stay
    for count in (24, 23, 25):
        if count != 24:
            shutil.rmtree(where)
            write(where, rows(count))
        line = refusal(capsys, on_images(data, out, "--resume"))
        assert f"the images of {data} are not those that {out} began with" in line and "--init-from" in line
    assert main(on_images(write(tmp_path / "elsewhere", rows(24)), out, "--resume")) == 0
    assert (out / "log.jsonl").read_text() == steps


def test_a_shard_of_the_same_size_with_other_labels_or_images_is_another(tmp_path: Path):
    """Tar pads shards to one another's size, so what lies in them is compared."""
    images = {"a.png": png(1, (40, 40)), "a.cls": b"1"}
    shards = [images, images | {"a.cls": b"2"}, images | {"a.png": png(1, (90, 90))}, {"b.png": images["a.png"]}]
    paths = [write_tar(tmp_path / f"{number}" / "x.tar", members) for number, members in enumerate(shards)]
    assert len({path.stat().st_size for path in paths}) == 1
    assert len({open_source(str(path)).fingerprint for path in paths}) == len(paths)
