"""Files are whole or not there: real failures, real permissions, real processes that write at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import star_catalog
from star_catalog.files import replacing, replacing_folder, sweep, write_json, write_text

_LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from star_catalog import files
target = Path(sys.argv[2])
"""


def start(code: str, target: Path, *args: str) -> subprocess.Popen:
    """A fresh process that runs `code` with `files` and `target` at hand."""
    packages = str(Path(star_catalog.__path__[0]).parent)
    command = [sys.executable, "-W", "error", "-c", _LOAD + code, packages, str(target), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process: subprocess.Popen) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out


@pytest.fixture
def umask():
    """Sets the process's umask; it is as it was after the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_the_file_appears_when_the_writer_is_done(tmp_path: Path):
    target = tmp_path / "new" / "folder" / "file.txt"
    with replacing(target) as part:
        part.write_text("all of it")
        assert part.parent == target.parent  # a rename works within one file system only
        assert not target.exists()
    assert target.read_text() == "all of it"
    assert list(target.parent.iterdir()) == [target]


def test_an_old_file_is_replaced_as_a_whole(tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("the old and longer text")
    with target.open() as reader:
        write_text(target, "new")
        assert reader.read() == "the old and longer text"  # who is reading goes on reading the old one
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_before_the_first_file_leaves_nothing(tmp_path: Path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "file.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    # a limit on the size of files stands for the full disk: writing starts, then fails for real
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    files.write_text(target, "x" * 100_000)
except OSError as error:
    print(error.reason)
"""
    assert output(start(code, target)).strip() == "File too large"
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("mask", "permissions"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask, mask: int, permissions: int):
    umask(mask)
    target = tmp_path / "file.txt"
    write_text(target, "text")
    assert target.stat().st_mode & 0o777 == permissions


def test_permissions_follow_the_umask_when_the_writer_puts_its_own_file_there(tmp_path: Path, umask):
    umask(0o022)
    with replacing(tmp_path / "file") as part:  # as safetensors does
        other = tmp_path / "other"
        other.touch(0o600)
        other.replace(part)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_writing_does_not_set_the_umask_which_all_threads_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def forbidden(mask: int) -> int:
        raise AssertionError("another thread that writes now would get these permissions, or set them for good")

    monkeypatch.setattr(os, "umask", forbidden)
    write_text(tmp_path / "file.txt", "text")


def test_processes_that_write_at_once_leave_one_whole_file(tmp_path: Path):
    target, size = tmp_path / "file.txt", 300_000
    write_text(target, "0" * size)
    code = f"[files.write_text(target, sys.argv[3] * {size}) for _ in range(30)]"
    writers = [start(code, target, letter) for letter in "abc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = target.read_text()
        assert len(text) == size
        assert len(set(text)) == 1
        seen.add(text[0])
    for writer in writers:
        output(writer)
    assert seen & set("abc")  # it was read while they wrote
    assert list(tmp_path.iterdir()) == [target]


def test_json_is_readable_by_people_and_text_is_utf8(tmp_path: Path):
    write_json(tmp_path / "file.json", {"a": [1, 2.5]})
    assert (tmp_path / "file.json").read_text() == '{\n  "a": [\n    1,\n    2.5\n  ]\n}\n'
    write_text(tmp_path / "file.txt", "Ä")
    assert (tmp_path / "file.txt").read_bytes() == "Ä".encode()


def test_a_folder_is_exchanged_for_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "folder"
    for text in "abc":
        if text == "c":  # a system that can't exchange folders
            monkeypatch.setattr("ctypes.CDLL", lambda name: object())
        with replacing_folder(target) as part:
            (part / text).touch()
            assert [path.name for path in target.glob("*")] == {"b": ["a"], "c": ["b"]}.get(text, [])
        assert [path.name for path in target.iterdir()] == [text]
        assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(ValueError), replacing_folder(target) as part:
        (part / "d").touch()
        raise ValueError
    assert [path.name for path in target.iterdir()] == ["c"] and list(tmp_path.iterdir()) == [target]


def test_only_unfinished_files_are_swept(tmp_path: Path):
    for name in (".a.json.0123abcd.part", ".tmpAb3dEf", "a.json", ".notes.part", ".tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".tmpfoldab").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", ".notes.part", ".tmp", ".tmpfoldab"}
