"""A whole study by its real command, on made-up packs: real processes, stopped and gone on with, tables and page."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from data_cases import encoded, write_parquet
from runs import finish, start
from star_training import studies
from star_training.cli import main as cli
from star_training.data import DataError
from star_training.studies import run as reproduction
from star_training.studies.study import MEAN
from twins import photos

CLASSES, PER_CLASS = 3, 40
METHODS = ("simclr", "equimod", "star_8")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack for every data set of the small study, a few images each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("packs")
    images = photos(CLASSES * PER_CLASS, 16, 16)
    labels = [k % CLASSES for k in range(len(images))]
    for k, label in enumerate(labels):
        images[k, label] = 255  # something to learn
    files = [encoded(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), "PNG") for image in images]
    split = ["train", "train", "test"] * (len(files) // 3)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    study = studies.find("cifar10_small")
    for name in {study.images.name, *study.data}:
        rows = {"image": [files[k] for k in order], "label": [labels[k] for k in order], "split": split}
        write_parquet(folder / f"{name}.parquet", **rows)
    return folder


def command(packs: Path, out: Path, *more: str) -> list[str]:
    return ["reproduce", "cifar10_small", "--fast", "--seeds", "1", "--data", str(packs), "--out", str(out), *more]


@pytest.mark.slow
def test_a_study_goes_from_nothing_to_a_filled_table_whatever_stops_it(
    packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "study"
    names = [f"{method}-0" for method in METHODS]
    some = command(packs, out, "--jobs", "2", "--methods", *METHODS)
    process = start(some)
    results = out / "results"
    deadline = time.monotonic() + 300
    while not list(results.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, _, said = finish(process)
    assert code == 128 + signal.SIGTERM and "stopped by SIGTERM; go on with: " in said
    before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert 0 < len(before) < len(names)

    code, printed, said = finish(start(some), 240)
    assert code == 0, said
    assert {path.stem for path in results.glob("*.json")} == set(names)
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}.items()
    table = (out / "table.md").read_text()
    for heading in ("methods: means over seeds", "differences by seed", "claims"):
        assert f"## {heading}" in table and heading in printed
    lines = table.split("## differences")[0].splitlines()
    (mean,) = [line for line in lines if line.startswith("| Linear") and MEAN in line]
    assert len([float(cell) for cell in mean.strip("| ").split(" | ")[2:]]) == len(names)  # a number of every method
    page = (out / "report.html").read_text()
    assert "When the methods diverge" in page and "differences by seed" in page and (out / "curves.png").exists()
    assert "Every run" in page and (out / "seeds.png").exists()

    # a result is one file, and each run can be had again by its own command
    wanted = json.loads((results / "star_8-0.json").read_text())
    (results / "star_8-0.json").unlink()
    code, _, said = finish(start(command(packs, out, "--only", "star_8-0")))
    assert code == 0, said
    assert json.loads((results / "star_8-0.json").read_text()) == wanted
    assert wanted["recipe"]["data"]["source"] == "cifar10.parquet"  # no folder of this machine

    # and a study of other settings is distinguished from this one
    whole = [word for word in command(packs, out) if word != "--fast"]
    for more, error in (([], "has other settings"), (["--only", "star_8-0"], "the settings differ from those")):
        code = cli.main([*whole, *more])
        said = capsys.readouterr().err
        assert code == 1 and error in said and "epochs: 1, 13" in said, said


def test_a_run_that_fails_ends_the_study_with_its_words(packs: Path, tmp_path: Path):
    (tmp_path / "simclr-0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "simclr-0" / "recipe.json").write_text("nonsense")
    code, _, said = finish(start(command(packs, tmp_path, "--jobs", "1")))
    assert code == 1 and "simclr-0 ended with exit code 1" in said and "is not a valid recipe.json" in said
    assert not (tmp_path / "equimod-0.log").exists()


def test_missing_images_are_reported_before_anything_is_trained(tmp_path: Path):
    study = studies.find("cifar10_small")
    with pytest.raises(DataError, match="the study needs cifar10: neither"):
        reproduction.check(study, tmp_path)
    for name in (study.images.name, *study.data):
        if name != "rsscn7":
            (tmp_path / f"{name}.parquet").touch()
    with pytest.raises(DataError, match="the study needs rsscn7: neither"):
        reproduction.check(study, tmp_path)
    (tmp_path / "rsscn7.parquet").touch()
    reproduction.check(study, tmp_path)


def test_what_makes_no_sense_is_refused(packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for arguments, error in (
        (["--jobs", "0"], "--jobs is 0; it must be at least 1"),
        (["--processes", "0"], "--processes is 0; it must be at least 1"),
        (["--methods", "star_8", "star8"], "method 'star8' not found; did you mean 'star_8'?"),
        (["--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["--only", "star_9-0"], "run of cifar10_small 'star_9-0' not found; did you mean 'star_8-0'?"),
        (["--tables"], "results holds no outcome of a run"),
    ):
        code = cli.main([*command(packs, tmp_path / "out"), *arguments])
        said = capsys.readouterr().err
        assert code == 1 and error in said, said
        assert not (tmp_path / "out").exists()


def test_runs_print_as_much_as_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    passed: list[list[str]] = []
    monkeypatch.setattr(reproduction, "run_all", lambda study, called, out, folder, options, *_: passed.append(options))
    for flags in ([], ["-q"], ["-v"]):
        assert cli.main([*command(tmp_path, tmp_path / "out"), *flags]) == 1  # no run made an outcome
    assert passed == [["--fast", "--seeds", "1", *flags] for flags in ([], ["-q"], ["-v"])]


def test_runs_are_each_method_once_and_then_the_next_seed():
    study = studies.find("cifar10_small")
    order = [reproduction.name_of(method, seed) for method, seed in reproduction.runs(study)]
    assert len(order) == len(set(order)) == sum(method.seeds for method in study.methods)
    assert order[: len(study.methods)] == [f"{method.name}-0" for method in study.methods]
