"""-q prints results and errors only, -v details, and off a terminal the progress is a line now and then."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm

from runs import STEPS, at_step, command, pictures, tiny
from star_catalog import zoo
from star_catalog.printing import as_typed
from star_catalog.reading import one_line
from star_training import messages
from star_training.api.trained import Trained
from star_training.cli.execute import parser
from star_training.cli.main import main
from star_training.evaluation import features
from star_training.evaluation.protocols import knn
from star_training.evaluation.record import Record
from star_training.finetuning.run import in_words

SILENCE = messages._SILENCE


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every hundredth of a second."""
    monkeypatch.setattr(messages, "_SILENCE", 0.01)


def test_a_quiet_run_prints_its_result_alone(tmp_path: Path, often, capsys):
    assert main(command(tmp_path / "run", "-q")) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("exported to ") and captured.out.count("\n") == 1 and captured.err == ""
    assert not messages.quiet()  # what the next command prints isn't changed
    assert main(command(tmp_path / "run", "-q")) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_a_verbose_run_prints_versions_settings_and_its_time(tmp_path: Path, capsys):
    assert main(command(tmp_path / "run", "-v")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("star_zoo 0.") and "torch 2." in lines[0] and "device cpu, processes 1" in lines[0]
    assert {"  batch_size=8", "  data.source=spirograph:32", "  precision=no"} <= set(lines)
    assert not any(line.startswith("  seed=") for line in lines)  # a default
    assert lines[-1].startswith("took ")


def test_quiet_and_verbose_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["list", "-q", "-v"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["bench", "-v", "linear"], ["bench", "linear", "-v"]])
def test_a_benchmark_takes_both_before_and_after_its_name(words: list[str]):
    assert parser().parse_args(words).verbosity == messages.VERBOSE
    assert parser().parse_args([word for word in words if word != "-v"]).verbosity == messages.NORMAL


def test_the_progress_of_a_training_off_a_terminal(tmp_path: Path, often, monkeypatch, capsys):
    assert SILENCE <= 30
    at_step(monkeypatch, 6, lambda run: time.sleep(0.1))
    assert main(command(tmp_path / "run")) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step 6 of 8")]
    assert lines and lines[-1].startswith(f"step 6 of {STEPS}, loss ")
    assert (", img/s " in lines[-1] and ", about 0 s left (" in lines[-1]) or ", about 1 s left (" in lines[-1]


# where the work of a command lies, and its line
WORKS = [
    (["embed", "pixels", "--out", "e.parquet"], features, "feature_batches", "0 of 8 images"),
    (["eval", "knn", "pixels"], knn, "run", "knn on images"),
    (["compare", "pixels", "pixels", "--protocol", "knn"], knn, "run", "comparing pixels with pixels"),
]


@pytest.mark.parametrize(("words", "module", "name", "line"), WORKS, ids=[words[0] for words, *_ in WORKS])
def test_the_progress_of_other_commands_off_a_terminal(
    words: list[str], module: ModuleType, name: str, line: str, tmp_path: Path, often, monkeypatch, capsys
):
    def slow(*given: Any, **settings: Any) -> Any:
        time.sleep(0.1)
        return work(*given, **settings)

    work = getattr(module, name)
    monkeypatch.setattr(module, name, slow)
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        pictures(tmp_path / "images" / split, 4)
    assert main([*words, "--data", "images", "--workers", "0"]) == 0
    assert f"{line} (0 s)" in capsys.readouterr().err.splitlines()


def test_nested_works_are_shown_in_one_line(often, capsys):
    with messages.busy(lambda: "outer"):
        with messages.busy(lambda: "inner"):
            capsys.readouterr()  # of before, on a busy machine
            time.sleep(0.1)
            both = capsys.readouterr().err
        capsys.readouterr()  # a line of either
        time.sleep(0.1)
    outer = capsys.readouterr().err
    assert set(both.splitlines()) == {"outer; inner (0 s)"}
    assert set(outer.splitlines()) == {"outer (0 s)"}
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_further_processes_are_silent(often, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with messages.busy(lambda: "work"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_outputs_that_nobody_reads_end_no_command(tmp_path: Path, often, monkeypatch):
    """A stream closed from the start, as by 2>&-, or a pipe whose reader has ended, as with `| head -1`."""
    run, data = tmp_path / "run", [str(pictures(tmp_path / name, 20)) for name in ("one", "other")]
    reader, writer = os.pipe()
    os.close(reader)
    evaluation = ["eval", "all", str(run), "--protocols", "knn", "--data", *data]
    with open(writer, "w", buffering=1) as pipe:
        for outputs, words in (((None, pipe), command(run)), ((pipe, None), evaluation)):
            monkeypatch.setattr(sys, "stdout", outputs[0])
            monkeypatch.setattr(sys, "stderr", outputs[1])
            assert main(words) == 0
    records = json.loads((run / "export" / "results.json").read_text())["evaluations"]
    assert [record["data"] for record in records] == ["one", "other"]


STRANGE = ("a b; touch c", "it's", "a\nb", "'\\\x1b[2J\u202e", "\udcff", "ü", "", "-x", "\u200b\U000e0001")


def test_a_command_is_typed_as_one_line_that_a_shell_reads():
    line = as_typed("printf", r"%s\0", *STRANGE)
    assert line.isprintable()
    found = subprocess.run(["bash", "-c", line], capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True).stdout
    assert tuple(os.fsdecode(word) for word in found.split(b"\0")[:-1]) == STRANGE


def test_a_result_has_one_line_for_each_name_whatever_its_characters(tmp_path: Path, capsys):
    data = pictures(tmp_path / "my\nphotos\x1b[2J", 20)
    assert main(["eval", "all", "pixels", "--protocols", "knn,regression", "--data", str(data)]) == 0
    result, *lines, left_out = capsys.readouterr().out.splitlines()
    name = r"my\nphotos\x1b[2J"
    assert result.startswith(f"pixels on {name}, knn (") and rf"| pixels | {name} |" in lines
    assert left_out.startswith(f"regression on {name} not applicable: {name} has classes")
    record = Record(protocol="finetune", model="a\x1b", data="b\n", seed=0)
    assert in_words(record) == r"a\x1b on b\n: "
    assert str(Trained(Path("a\nb"), {})).startswith(r"exported to a\nb/export: ")
    assert main(["eval", "knn", "pixels", "--data", f"{data}x"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_quickstart_prints_its_time_and_python_that_loads_the_model(tmp_path: Path, monkeypatch, capsys):
    recipe = tiny("run.eval_every=1")
    monkeypatch.setattr("star_training.quickstart.recipes.find", lambda name: recipe)
    monkeypatch.setattr("star_training.quickstart.run_figure.draw", lambda *drawn: None)
    out = tmp_path / "it's"
    for time_of in ("time", "time since the resume"):
        assert main(["quickstart", "--out", str(out)]) == 0
        *_, line, _, _, _, _, load, _ = capsys.readouterr().out.splitlines()
        assert f"figure: {out / 'learned.png'}    {time_of}: " in line
        assert eval(load.partition(" = ")[2], {"timm": timm}).num_features == 96


def test_a_long_message_of_ours_is_complete_and_a_library_s_is_cut_at_a_word():
    words = "word " * 200
    assert one_line(zoo.NotAvailable(words)) == words.strip()
    assert one_line(RuntimeError("short\nlines")) == "short lines"
    assert one_line(RuntimeError(words)) == "word " * 100 + "..."
    assert one_line(RuntimeError("x" * 600)) == "x" * 500 + " ..."
    assert one_line(ValueError()) == "ValueError"
    with pytest.raises(ValueError) as own:
        zoo.Repository.parse(words)
    assert one_line(own.value).endswith("pass hf-hub:OWNER/NAME[@REVISION]")
    with pytest.raises(ValueError) as foreign:
        raise ValueError(words)
    assert one_line(foreign.value).endswith("word ...")
