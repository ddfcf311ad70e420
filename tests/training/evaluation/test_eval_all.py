"""`eval all`: each image passes once, finished results outlast a stop, a failure loses nothing else, one table."""

import io
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_cases import encoded, write_parquet
from star_training import messages
from star_training.cli.main import main
from star_training.cli.measure import eval as command
from star_training.data import contents
from star_training.data.eval_sets.local import expanded, found
from star_training.engine.results import read
from star_training.evaluation import finished, frozen_model, many, progress, protocols
from star_training.evaluation.progress import Progress, duration


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(contents, "_SETTLED", -1.0)
    monkeypatch.setattr(frozen_model, "_PIXELS", 4)
    monkeypatch.setattr("star_training.evaluation.protocols.few_shot.TASKS", 5)
    monkeypatch.setattr("star_training.evaluation.protocols.few_shot.accuracies.__defaults__", (5,))


def pack(path: Path, classes: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(20 * classes)]
    return str(
        write_parquet(
            path,
            image=[encoded(picture, "PNG") for picture in pictures],
            label=[k % classes for k in range(20 * classes)],
            split=(["train"] * classes + ["test"] * classes) * 10,
        )
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two data sets, one of them with too few classes for few-shot tasks."""
    (tmp_path / "sets").mkdir()
    pack(tmp_path / "sets" / "many.parquet", 6)
    pack(tmp_path / "sets" / "few.parquet", 3, seed=1)
    return tmp_path / "sets"


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprint of each source whose features were extracted."""
    made: list[str] = []
    extract = frozen_model.extract

    def counted(backbone, source, *arguments, **named):
        made.append(source.fingerprint)
        return extract(backbone, source, *arguments, **named)

    monkeypatch.setattr(frozen_model, "extract", counted)
    return made


def evaluated(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda count: None) -> list[str]:
    """The evaluations that are computed; `before` is called with the number of earlier ones."""
    made: list[str] = []
    evaluate = many.evaluate

    def counted(protocol, model, splits, seed):
        before(len(made))
        made.append(f"{protocol} on {splits.name}")
        return evaluate(protocol, model, splits, seed)

    monkeypatch.setattr(many, "evaluate", counted)
    return made


def test_the_help_names_the_default_protocols():
    assert set(re.findall(r"\w+", command._ALL)) & set(protocols.known()) == set(protocols.in_all())
    assert set(protocols.in_all()) == {"few_shot", "knn", "linear", "regression"}


def test_each_image_passes_once_and_a_set_of_too_few_classes_is_left_out(
    folder: Path, tmp_path: Path, extractions, capsys
):
    out = tmp_path / "results.json"
    assert main(["eval", "all", "pixels", "--data", str(folder), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert len(extractions) == len(set(extractions)) == 4  # train and test of both
    made = {(r["data"], r["protocol"]) for r in read(out)["evaluations"]}
    assert made == {("few", "knn"), ("few", "linear"), *(("many", p) for p in ("few_shot", "knn", "linear"))}
    reason = "few has 3 classes with at least 2 test images; 5-way 1-shot needs 5 of them"
    assert f"few_shot on few left out: {reason}" in printed.out and "regression" not in printed.out
    assert "failed" not in printed.err
    table = [line.split(" | ") for line in printed.out.splitlines() if line.startswith("| ")]
    assert table[0] == ["| pixels", "few", "many |"] and [row[0] for row in table].count("| 1-NN top-1, %") == 1
    (knn,) = (r for r in read(out)["evaluations"] if (r["data"], r["protocol"]) == ("many", "knn"))
    shown = next(row for row in table if row[0] == "| 1-NN top-1, %")
    assert shown[2].startswith(f"{100 * knn['metrics']['knn1_top1']['value']:.1f} [")


def test_what_is_finished_is_not_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch, extractions, capsys):
    stop_at = [3]

    def stopping(count: int) -> None:
        if count == stop_at[0]:
            raise KeyboardInterrupt

    made = evaluated(monkeypatch, stopping)
    arguments = ["eval", "all", "pixels", "--data", str(folder / "many.parquet"), str(folder / "few.parquet")]
    assert main(arguments) == 130
    assert "3 of 8 evaluations are finished; go on with: star-zoo eval all " in capsys.readouterr().err
    assert made == ["few_shot on many", "knn on many", "linear on many"] and len(extractions) == 2
    stop_at[0] = -1
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert made[3:] == ["regression on many", *(f"{p} on few" for p in ("few_shot", "knn", "linear", "regression"))]
    del made[:]
    assert main(arguments) == 0
    assert capsys.readouterr().out == first and len(extractions) == 4
    assert made == ["regression on many", "few_shot on few", "regression on few"]  # of which there are no results
    assert main([*arguments, "--seed", "1"]) == 0 and "knn on many" in made
    del made[:]
    monkeypatch.setattr(finished, "code", lambda *packages: f"other code of {packages}")
    assert main(arguments) == 0 and "knn on many" in made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_in_the_command_that_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys, number: int):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    child: list[int] = []

    def stopping(count: int) -> None:
        if count == 2:
            if (process := os.fork()) == 0:
                os.kill(os.getpid(), signal.SIGTERM)  # a worker that is ended
                os._exit(0)
            child.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
            os.kill(os.getpid(), number)

    evaluated(monkeypatch, stopping)
    data = str(folder / "many.parquet")
    assert main(["eval", "all", "pixels", "--data", data]) == 128 + number
    line = capsys.readouterr().err.splitlines()[-1]
    message = f"stopped by {signal.Signals(number).name}; 2 of 4 evaluations are finished"
    assert line == f"{message}; go on with: star-zoo eval all pixels --data {data}"
    assert child == [143]
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize("kind", [ValueError, OSError, ZeroDivisionError])
def test_an_error_is_one_failure(kind: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def broken(count: int) -> None:
        if count == 0:
            raise kind("a fault")

    evaluated(monkeypatch, broken)
    monkeypatch.setattr(many, "evaluate", _once(many.evaluate))
    assert main(["eval", "all", "pixels", "--protocols", "knn,linear", "--data", str(folder / "many.parquet")]) == 1
    printed = capsys.readouterr()
    reason = "unexpected ZeroDivisionError: a fault" if kind is ZeroDivisionError else "a fault"
    assert f"knn on many failed: {reason}" in printed.out
    assert (
        "Linear top-1, %" in printed.out
        and f"1 of 2 evaluations failed: knn on many; the first: {reason}" in printed.err
    )


def _once(raising: Callable) -> Callable:
    """Raises at the first call, and then evaluates."""
    calls = []

    def called(protocol, model, splits, seed):
        calls.append(protocol)
        if len(calls) == 1:
            return raising(protocol, model, splits, seed)
        from star_training.evaluation.record import evaluate

        return evaluate(protocol, model, splits, seed)

    return called


def test_protocols_are_chosen_for_all_alone(folder: Path, capsys):
    data = ["--data", str(folder / "many.parquet")]
    assert main(["eval", "all", "pixels", "--protocols", "knn, regression", *data]) == 0
    assert "regression on many not applicable: many has classes for labels" in capsys.readouterr().out
    assert main(["eval", "all", "pixels", "--protocols", "knnn", *data]) == 1
    assert "did you mean 'knn'" in capsys.readouterr().err
    assert main(["eval", "knn", "pixels", "--protocols", "linear", *data]) == 1
    assert "--protocols is for eval all" in capsys.readouterr().err
    assert main(["eval", "knn", "pixels", "--seed", str(2**63), *data]) == 1
    assert "it must be from -2**63 to 2**63 - 1" in capsys.readouterr().err


def test_a_data_set_without_a_split_is_left_out_with_the_reason(tmp_path: Path, capsys):
    image = encoded(Image.new("RGB", (8, 8)), "PNG")
    novel = write_parquet(tmp_path / "novel.parquet", image=[image] * 60, label=[*range(6)] * 10, split=["test"] * 60)
    assert main(["eval", "all", "pixels", "--data", str(novel)]) == 0
    printed = capsys.readouterr().out
    assert "knn on novel left out: no split 'train'" in printed and "| 5-way 5-shot, % |" in printed


def test_a_folder_of_data_sets_is_distinguished_from_a_data_set_of_several_files(
    folder: Path, tmp_path: Path, monkeypatch
):
    assert expanded(str(folder)) == [str(folder / "few.parquet"), str(folder / "many.parquet")]
    for name, files in {
        "splits": ("train.parquet", "test.parquet"),
        "shards": ("data-00000-of-00002.parquet", "data-00001-of-00002.parquet"),
        "one": ("birds.parquet",),
        "none": (),
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        assert expanded(str(tmp_path / name)) == [str(tmp_path / name)]
    monkeypatch.setenv("STAR_ZOO_DATA", str(folder))
    (folder / "notes").mkdir()
    (folder / "notes" / "lists.json").touch()
    (folder / "photos" / "a").mkdir(parents=True)
    (folder / "photos" / "a" / "0.JPG").touch()
    assert found() == [str(folder / name) for name in ("few.parquet", "many.parquet", "photos")]
    assert expanded("torchvision:CIFAR10") == ["torchvision:CIFAR10"]


# Progress


def test_the_time_left_follows_from_the_work():
    shown = Progress(100, io.StringIO())
    shown.begin("birds, knn")
    assert shown.line() == "birds, knn"
    shown._began = time.monotonic() - 60
    shown.advance(20)
    assert shown.line() == "birds, knn: 20 %, about 4 min 0 s left"
    shown.skip(60)
    assert shown.line() == "birds, knn: 50 %, about 1 min 0 s left"
    shown.advance(90)  # more than was expected
    assert shown.line().endswith("about 0 s left")
    assert [duration(s) for s in (5.4, 90, 7500)] == ["5 s", "1 min 30 s", "2 h 5 min"]


def test_off_a_terminal_a_line_comes_although_a_computation_lasts(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(messages, "_SILENCE", 0.02)
    with Progress(100, io.StringIO()) as shown, messages.busy(lambda: "features"):
        shown.begin("birds, linear")
        shown.advance(50)
        capsys.readouterr()  # of before
        time.sleep(0.3)
        lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and set(lines) == {"birds, linear: 50 %, about 0 s left; features (0 s)"}


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress, "_REFRESH", 0.02)
    file = Terminal()
    with Progress(100, file) as shown, messages.busy(lambda: "features"):
        shown.begin("birds, linear")
        shown.advance(50)
        time.sleep(0.3)
    assert "50%|" in file.getvalue() and "birds, linear: 50 %, about 0 s left; features (0 s)" in file.getvalue()
