"""Images and settings as people have them: what can be used trains, what can't ends in one line that helps."""

import functools
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

import star_training
from data_cases import BROKEN, FILES, png, write_folder
from finetune_cases import coloured
from runs import entries, exported, finish, pictures, start, tiny
from star_training.cli.main import main
from star_training.data import BadImageWarning, open_source
from star_training.data.sources.spirograph import Spirographs
from star_training.detection.datasets.base import BoxWarning
from star_training.engine.saving.checkpoint import CheckpointWarning
from star_training.evaluation.protocols.redundancy import FewImagesWarning
from star_training.messages import noted
from star_training.pretraining import setup as preparation
from star_training.pretraining.setup import count_steps

SMALL = (
    "backbone=test_resnet",
    "policy.augmentations.0.size=32",
    "batch_size=8",
    "objective_args.num_experts=2",
    "objective_args.hidden=16",
    "precision=no",
    "run.workers=0",
    "run.log_every=1",
    "epochs=1",
)


def arguments(data: object, out: Path, *more: str, settings: tuple[str, ...] = ()) -> list[str]:
    """The command line of a small run on a folder of images."""
    made = ["pretrain", "folder", "--data", str(data), "--out", str(out), *more]
    for setting in (*SMALL, *settings):
        made += ["--set", setting]
    return made


def refusal(capsys, given: list[str]) -> str:
    """The one line that a refused command says; it must leave nothing behind."""
    out = Path(given[given.index("--out") + 1])
    assert main(given) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("star-zoo: ") and captured.out == ""
    assert not out.exists()
    return line


# Folders that can't be used


def test_a_missing_folder(tmp_path: Path, capsys):
    line = refusal(capsys, arguments(tmp_path / "nowhere", tmp_path / "run"))
    assert f"'{tmp_path / 'nowhere'}' doesn't exist" in line and "a folder of images" in line


def test_an_empty_folder(tmp_path: Path, capsys):
    (tmp_path / "images").mkdir()
    assert "no images found in" in refusal(capsys, arguments(tmp_path / "images", tmp_path / "run"))


def test_a_folder_without_images(tmp_path: Path, capsys):
    write_folder(tmp_path / "images", {"a/notes.txt": b"x", "b/films.mp4": b"y"})
    line = refusal(capsys, arguments(tmp_path / "images", tmp_path / "run"))
    assert "no images found in" in line and ".png" in line


def test_a_file_of_another_kind(tmp_path: Path, capsys):
    (tmp_path / "images.zip").write_bytes(b"PK")
    assert "unknown type '.zip'; unpack" in refusal(capsys, arguments(tmp_path / "images.zip", tmp_path / "run"))


@pytest.mark.parametrize("name", ["hf:", "torchvision:Nothing", "s3://bucket/images", "spirograph:none"])
def test_a_source_that_is_none(tmp_path: Path, capsys, name: str):
    refusal(capsys, arguments(name, tmp_path / "run"))


@pytest.fixture
def nobody():
    """A folder that this process may enter but not read, whoever runs the tests."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    pictures(folder / "images", 8)
    (folder / "images").chmod(0o000)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield folder / "images"
    os.seteuid(before)
    (folder / "images").chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_read(nobody: Path, capsys):
    line = refusal(capsys, arguments(nobody, nobody.parent / "run"))
    assert str(nobody) in line and "ermission denied" in line


def test_a_place_that_may_not_be_written(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(arguments(pictures(tmp_path / "images", 16), tmp_path / "file" / "run")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("star-zoo: ") and "file is a file; move it away or choose another place" in line


# Images that can be used


def test_every_kind_of_file_trains(tmp_path: Path):
    suffix = {b"\x89PNG": "png", b"II*\x00": "tif", b"MM\x00*": "tif"}
    mix = {f"{k:02d}.{suffix[data[:4]]}": data for k, (data, _) in enumerate(FILES.values())}
    assert len(mix) >= 12
    write_folder(tmp_path / "images", mix)
    assert main(arguments(tmp_path / "images", tmp_path / "run")) == 0
    assert len(entries(tmp_path / "run")) == len(mix) // 8
    assert all(t.isfinite().all() for t in exported(tmp_path / "run").values())


def test_images_of_one_pixel_train(tmp_path: Path):
    write_folder(tmp_path / "images", {f"{k % 2}/{k}.png": png(k, (1, 1)) for k in range(20)})
    assert main(arguments(tmp_path / "images", tmp_path / "run")) == 0
    assert all(t.isfinite().all() for t in exported(tmp_path / "run").values())


def test_long_and_wide_images_train(tmp_path: Path):
    write_folder(tmp_path / "images", {f"{k}.png": png(k, (300, 2) if k % 2 else (2, 300)) for k in range(8)})
    assert main(arguments(tmp_path / "images", tmp_path / "run")) == 0


def test_classes_without_a_test_split_hold_some_out(tmp_path: Path):
    assert main(arguments(pictures(tmp_path / "images", 20), tmp_path / "run", settings=("data.hold_out=0.2",))) == 0
    assert [e["step"] for e in entries(tmp_path / "run", "knn1_top1")] == [0, 2]  # 16 images are left to train on
    assert main(arguments(tmp_path / "images", tmp_path / "none", settings=("data.hold_out=0",))) == 0
    assert entries(tmp_path / "none", "knn1_top1") == [] and len(entries(tmp_path / "none")) == 2


def test_train_and_test_splits_are_distinguished(tmp_path: Path, capsys):
    pictures(tmp_path / "images" / "Training", 24)
    pictures(tmp_path / "images" / "Test", 8)
    write_folder(tmp_path / "images", {"Test/0/photo.heic": b"x"})
    assert main(arguments(tmp_path / "images", tmp_path / "run")) == 0
    first, *others = capsys.readouterr().out.splitlines()
    counts = "24 images of 2 classes in Training, 8 in Test"
    assert (
        first == f"{tmp_path / 'images'}: {counts}; left out: Test/0/photo.heic (not readable here), Test/0 (no images)"
    )
    assert not [line for line in others if "images of" in line]
    assert [e["step"] for e in entries(tmp_path / "run", "knn20_top1")] == [0, 3]


def test_unlabelled_images_train_without_evaluation(tmp_path: Path):
    assert main(arguments(pictures(tmp_path / "images", 16, classes=(".",)), tmp_path / "run")) == 0
    assert entries(tmp_path / "run", "knn1_top1") == [] and len(entries(tmp_path / "run")) == 2


# Images that don't decode


def with_broken(folder: Path, count: int, broken: int) -> Path:
    files = {f"{k:03d}.png": BROKEN if k < broken else png(k % 256) for k in range(count)}
    return write_folder(folder, files)


def test_one_broken_image_of_a_hundred_is_left_out_with_a_warning(tmp_path: Path, capsys):
    folder = with_broken(tmp_path / "images", 100, 1)
    with pytest.warns(BadImageWarning, match=r"1 of the 100 images of .* can't be used: .*000\.png") as warned:
        assert main(arguments(folder, tmp_path / "run", settings=("batch_size=33",))) == 0
    assert len(warned) == 1
    assert len(entries(tmp_path / "run")) == 3  # of 33 images, out of 99
    counted = "100 images without labels in train; 99 to train on\n"
    assert counted in capsys.readouterr().out


def test_more_broken_images_are_refused_unless_allowed(tmp_path: Path, capsys):
    folder = with_broken(tmp_path / "images", 100, 2)
    line = refusal(capsys, arguments(folder, tmp_path / "run"))
    assert "2 of the 100 images" in line and "max_bad = 0.01" in line
    with pytest.warns(BadImageWarning, match="2 of the 100 images"):
        assert main(arguments(folder, tmp_path / "run", "--max-bad", "0.02", settings=("batch_size=49",))) == 0


def test_nothing_but_broken_images_is_refused_whatever_is_allowed(tmp_path: Path, capsys):
    refusal(capsys, arguments(with_broken(tmp_path / "images", 9, 9), tmp_path / "run", "--max-bad", "1"))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_that_turn_up_while_training_are_reported(tmp_path: Path, monkeypatch, capsys, workers: int):
    streamed = functools.partial(open_source, cache_bytes=0)  # as a set that doesn't fit in memory
    monkeypatch.setattr(preparation, "open_source", streamed)
    settings = (f"run.workers={workers}", "epochs=2")
    folder = with_broken(tmp_path / "images", 16, 2)
    with pytest.warns(BadImageWarning, match="of the 16 images"):
        given = arguments(folder, tmp_path / "run", "--max-bad", "0.2", settings=settings)
        assert main(given) == 0
    capsys.readouterr()
    assert main(arguments(folder, tmp_path / "other", settings=settings)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("star-zoo: ") and "max_bad = 0.01" in line and "000.png" in line


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training images, one of them broken, and 24 test images of three classes."""
    folder = coloured(tmp_path_factory.mktemp("labelled"))
    (folder / "train" / "blue" / "000.png").write_bytes(BROKEN)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "knn", "pixels"],
        ["eval", "all", "pixels", "--protocols", "knn"],
        ["compare", "pixels", "untrained:test_resnet", "--protocol", "knn"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_measuring_refuses_broken_images_unless_allowed(labelled: Path, tmp_path: Path, capsys, command: list[str]):
    given = [*command, "--data", str(labelled), "--out", str(tmp_path / "results.json"), "--workers", "0"]
    assert main([*given, "--max-bad", "0.02"]) == 1  # 1 of 48 is more
    printed = "".join(capsys.readouterr())
    assert re.search(r"1 of the 48 images .* max_bad = 0\.02 .* \(--max-bad of .*eval and compare\)", printed)
    with pytest.warns(BadImageWarning, match="1 of the 48 images"):
        assert main([*given, "--max-bad", "0.03"]) == 0


def test_fine_tuning_refuses_broken_images_unless_allowed(labelled: Path, tmp_path: Path, capsys):
    out = tmp_path / "tuned"
    given = ["finetune", "untrained:test_resnet", "--data", str(labelled), "--out", str(out)]
    for setting in ("views.size=32", "epochs=1", "batch_size=47", "run.workers=0", "precision=no"):
        given += ["--set", setting]
    assert re.search(r"1 of the 48 images .* max_bad = 0\.01 .* \(--max-bad of .*finetune", refusal(capsys, given))
    with pytest.warns(BadImageWarning, match="1 of the 48 images"):
        assert main([*given, "--max-bad", "0.03"]) == 0
    assert "48 images of 3 classes in train, 24 in test; 47 to train on\n" in capsys.readouterr().out
    assert json.loads((out / "finetune.json").read_text())["data"]["max_bad"] == 0.03
    (made,) = json.loads((out / "export" / "results.json").read_text())["evaluations"]
    assert made["images"] == {"train": 47, "test": 24}


@pytest.fixture
def printing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are printed as Python prints them, although pytest records them."""

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    monkeypatch.setattr(warnings, "showwarning", show)
    warnings.simplefilter("always")  # pytest restores the filters after each test


@pytest.mark.parametrize("how", ["-q", "-v"])
def test_a_warning_of_bad_images_is_one_line_without_a_place_in_the_code(tmp_path: Path, capsys, printing, how: str):
    folder = with_broken(tmp_path / "images", 100, 1)
    assert main([*arguments(folder, tmp_path / "run", settings=("batch_size=33",)), how]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "can't be used" in line or "Warning" in line]
    assert len(lines) == 1 and re.fullmatch(
        r"note: 1 of the 100 images of .* can't be used: .*000\.png \(.*\)\. It is not used\.", lines[0]
    )


def test_in_python_it_is_the_same_line(labelled: Path, capsys, printing):
    star_training.evaluate("pixels", "knn", data=labelled, max_bad=0.03, workers=0)
    lines = [line for line in capsys.readouterr().err.splitlines() if "can't be used" in line or "warn" in line]
    assert len(lines) == 1 and lines[0].startswith("note: 1 of the 48 images of ")


@pytest.mark.parametrize("kind", [BadImageWarning, BoxWarning, CheckpointWarning, FewImagesWarning])
def test_other_warnings_than_our_own_keep_their_place_in_the_code(capsys, printing, kind: type[Warning]):
    with noted():
        warnings.warn("three are empty.", kind, stacklevel=1)
        warnings.warn("of another package", FutureWarning, stacklevel=1)
        warnings.warn("a\n\x1b[31mb.png", kind, stacklevel=1)
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first == "note: three are empty." and last == r"note: a\n\x1b[31mb.png"
    assert second.startswith(f"{__file__}:") and second.endswith("FutureWarning: of another package")


# Settings that don't fit


def test_a_batch_larger_than_the_set_names_one_that_fits(tmp_path: Path, capsys):
    folder = pictures(tmp_path / "images", 9, classes=(".",))
    line = refusal(capsys, arguments(folder, tmp_path / "run", settings=("batch_size=16", "accumulate=2")))
    assert "9 images to train on, but a step takes 32" in line
    fitting = re.search(r"--set (batch_size=\d+)", line)
    assert fitting and fitting[1] == "batch_size=4"
    assert main(arguments(folder, tmp_path / "run", settings=("accumulate=2", fitting[1]))) == 0


def test_a_batch_that_fits_two_processes_is_even():
    with pytest.raises(ValueError, match="--set batch_size=6$"):
        count_steps(tiny("batch_size=64"), Spirographs(7), 2)
    with pytest.raises(ValueError, match="pass more images$"):
        count_steps(tiny("accumulate=4"), Spirographs(7), 1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("backbone=resnet18x", "'resnet18x' is no timm model; did you mean 'resnet18'"),
        ("backbone=test_resnet.nothing", "Invalid pretrained tag"),
        ("backbone_args.img_size=64", "can't be built with backbone_args {'img_size': 64}"),
        ("objective_args.hiden=3", "objective 'star' has no setting hiden; known: num_experts"),
        ("objective_args.hidden=x", "objective_args.hidden is 'x'; it must be a whole number or null"),
        ("objective_args.temperature=0", "temperature is 0; it must be positive"),
        ("optimizer.name=addam", "optimizer.name 'addam' not found; did you mean 'adam'? known: adabelief"),
        ("optimizer.name=adahessian", "optimizer.name is 'adahessian', which can't be used here"),
        ("optimizer.lr=-1", "optimizer.lr is -1.0; it must be at least 0"),
        ("policy.augmentations.0.size=0", "crop size is 0; it must be at least 1 pixel"),
        ("policy.augmentations.4.kernel=99", "blur kernel is 99 pixels, but views are"),
        ("data.limit=0", "limit = 0 leaves no image"),
        ("data.max_bad=7", "max_bad = 7 is not a fraction"),
        ("policy.augmentations.Flip.p=-3", "Flip's p is -3; it must be a probability, from 0 to 1"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, capsys, setting, message):
    folder = pictures(tmp_path / "images", 16)
    assert message in refusal(capsys, arguments(folder, tmp_path / "run", settings=(setting,)))


def test_views_that_a_transformer_cannot_cut_into_patches(tmp_path: Path, capsys):
    settings = ("backbone=test_vit", "policy.augmentations.0.size=30")
    line = refusal(capsys, arguments(pictures(tmp_path / "images", 16), tmp_path / "run", settings=settings))
    assert "'test_vit' doesn't take images of 30 pixels" in line and "patch size" in line


# The real command


@pytest.mark.slow
def test_the_command_itself_refuses_in_one_line_and_trains_with_one_warning(tmp_path: Path):
    refused = start(arguments(tmp_path / "nowhere", tmp_path / "refused"))
    trained = start(arguments(with_broken(tmp_path / "images", 100, 1), tmp_path / "run"), warnings="default")
    code, out, err = finish(refused)
    assert (code, out) == (1, "") and re.fullmatch(r"star-zoo: '.*nowhere' doesn't exist.*\n", err), err
    code, out, err = finish(trained)
    assert code == 0 and f"exported to {tmp_path / 'run' / 'export'}" in out
    assert err.count("Warning") == 0 and re.search(r"^note: 1 of the 100 images of .* can't be used: .*$", err, re.M), (
        err
    )
