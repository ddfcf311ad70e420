"""Places that can't be written: one line with the place, the reason and the way out, before any long work."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from disk import files_end_at
from finetune_cases import coloured
from runs import TINY
from star_catalog import zoo
from star_catalog.files import replacing, replacing_folder, write_text
from star_catalog.writing import NotWritten, check_file, check_writable, writing
from star_training.cli.main import main
from star_training.engine.trainer import Loop

MODEL = str(zoo.EMBEDDED / "star_resnet10t.cifar10")
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
COMMANDS = {  # their arguments, with MODEL, DATA, and OUT below a file of the home folder
    "pretrain": ["spirograph_tiny", *SETTINGS, "--out", "OUT"],
    "finetune": ["MODEL", "--data", "DATA", "--set", "batch_size=8", "--set", "views.size=32", "--out", "OUT"],
    "quickstart": ["--out", "OUT"],
    "reproduce": ["cifar10_small", "--data", "DATA", "--out", "OUT"],
    "eval": ["knn", "MODEL", "--data", "DATA", "--out", "OUT"],
    "compare": ["MODEL", "pixels", "--data", "DATA", "--out", "OUT"],
    "embed": ["MODEL", "--data", "DATA", "--out", "OUT.npy"],
    "export": ["MODEL", "--to", "torch.export", "--out", "OUT"],
    "report": ["MODEL", "--out", "OUT"],
    "bench": ["imports", "--out", "OUT"],
    "publish": ["MODEL", "me/star", "--dry-run", "--out", "OUT"],
    "convert": ["MODEL", "--to-released", "OUT"],
}


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The only line that a refused command prints to standard error."""
    assert main([*words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert ".part" not in line and "Errno" not in line and ".trial-" not in line
    return line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(coloured(tmp_path_factory.mktemp("images"), train=12, test=6))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_in_the_place_of_a_folder(command: str, data: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(Loop, "run_steps", None)  # nothing is trained
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    (file := home / "file").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    place = {"MODEL": MODEL, "DATA": data, "OUT": "~/file/out", "OUT.npy": "~/file/out.npy"}
    line = refusal(capsys, command, *(place.get(word, word) for word in COMMANDS[command]))
    assert line.startswith(f"star-zoo: {file / 'out'}") and f" can't be written: {file} is a file; move it away" in line
    assert [path.name for path in home.glob("[!.]*")] == ["file"] and list(here.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_and_a_store_that_is_a_file(tmp_path: Path, monkeypatch, capsys):
    model = shutil.copytree(MODEL, tmp_path / "model")
    (model / "README.md").mkdir()
    line = refusal(capsys, "card", str(model))
    assert (
        line == f"star-zoo: {model / 'README.md'} can't be written: it is a folder; move it away or choose another name"
    )
    (tmp_path / "home").touch()
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    line = refusal(capsys, "install", MODEL, "star_resnet10t.mine")
    assert f"can't be written: {tmp_path / 'home'} is a file; move it away" in line


def test_a_copy_on_a_full_disk(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path))
    with files_end_at(1_000_000):
        install = refusal(capsys, "install", MODEL, "star_resnet10t.mine")
        publish = refusal(capsys, "publish", MODEL, "me/star", "--dry-run", "--out", str(tmp_path / "staged"))
    where = {install: tmp_path / "models" / "star_resnet10t.mine", publish: tmp_path / "staged"}
    for line, folder in where.items():
        assert line.startswith(f"star-zoo: {folder}") and line.endswith("can't be written: File too large; make room")
    assert not any(folder.exists() for folder in where.values())


@pytest.mark.parametrize(
    ("number", "reason", "way_out"),
    [
        (errno.EACCES, "Permission denied in the folder FOLDER", "make it writable or choose another"),
        (errno.EROFS, "Read-only file system in the folder FOLDER", "make it writable or choose another"),
        (errno.ENOSPC, "No space left on device", "make room"),
        (errno.EIO, "Input/output error", "choose another place"),
    ],
)
def test_the_way_out_follows_the_reason(number: int, reason: str, way_out: str, tmp_path: Path):
    path = tmp_path / "new" / "file"
    for named in (None, str(tmp_path), str(path)):  # by the system: an open file, its folder, itself
        with pytest.raises(NotWritten) as caught, writing(path):
            raise OSError(number, os.strerror(number), named)
        said = reason.replace("FOLDER", str(tmp_path))
        assert str(caught.value) == f"{path} can't be written: {said}; {way_out}"


def test_an_error_about_another_file_is_passed_on_and_a_temporary_name_is_not(tmp_path: Path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        (tmp_path / "other").read_text()
    with pytest.raises(NotWritten) as caught, replacing_folder(tmp_path / "folder") as part:
        (part / "a").touch()
        write_text(part / "a" / "b", "")
    assert str(caught.value).startswith(f"{tmp_path / 'folder' / 'a' / 'b'} can't be written: ")
    assert list(tmp_path.iterdir()) == []


def test_a_check_writes_nothing(tmp_path: Path):
    check_writable(tmp_path / "a" / "b")
    check_file(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotWritten, match="it is a folder"):
        check_file(tmp_path)
