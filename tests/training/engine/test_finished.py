"""A run that is finished: nothing that isn't meant to changes it, and what a kill left out of its export is made up."""

import json
import shutil
from pathlib import Path

import pytest

from finetune_cases import coloured
from runs import assert_equal, command, exported
from star_catalog.files import write_json
from star_catalog.writing import NotWritten
from star_training.cli.main import main
from star_training.messages import RESUME
from star_training.pretraining.run import is_whole
from star_training.publishing import card

MEASURED = {
    "evaluations": [{"protocol": "knn", "model": "run", "data": "birds", "seed": 0, "metrics": {}, "images": {}}],
    "comparisons": [
        {
            "model": "run",
            "other": "x",
            "seed": 0,
            "protocols": ["knn"],
            "rows": [],
            "data_fingerprints": {},
            "interval": "over test images",
        }
    ],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(out, settings=("epochs=1",))) == 0
    results = json.loads((out / "export" / "results.json").read_text())
    write_json(out / "export" / "results.json", results | MEASURED)
    return out


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder, with its content and its time."""
    paths = {str(path.relative_to(folder)): path for path in (folder, *folder.rglob("*"))}
    return {name: (p.read_bytes() if p.is_file() else b"", p.stat().st_mtime_ns) for name, p in paths.items()}


def resume(out: Path, *settings: str) -> list[str]:
    return command(out, "--resume", settings=("epochs=1", *settings))


def test_a_finished_run_is_as_it_was_after_resume(whole: Path, capsys):
    before = state(whole)
    assert main(resume(whole, "run.log_every=5")) == 0  # what decides no weights may differ, and yet isn't written
    assert f"{whole} is finished: nothing was left to do, nothing was changed" in capsys.readouterr().out
    assert state(whole) == before


def test_without_its_checkpoints_too(whole: Path, tmp_path: Path):
    """Who needs the room deletes them; it would be trained again."""
    out = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    before = state(out)
    assert main(resume(out)) == 0
    assert state(out) == before


@pytest.mark.parametrize("lost", ["heads.json", "results.json", "README.md", "export"])
def test_an_export_that_was_cut_short_is_made_whole(whole: Path, tmp_path: Path, lost: str):
    out = shutil.copytree(whole, tmp_path / "run")
    export = out / "export"
    if lost == "export":
        shutil.rmtree(export)
    else:
        (export / lost).unlink()
    (out / "checkpoints" / ".x.json.0123abcd.part").touch()  # a kill's leftover is swept where the run goes on
    assert main(resume(out)) == 0
    assert is_whole(export) and (export / "README.md").is_file()
    assert lost == "README.md" or not list((out / "checkpoints").glob(".*"))
    assert_equal(exported(out), exported(whole))
    held = json.loads((export / "results.json").read_text())
    measured = {} if lost in ("export", "results.json") else MEASURED
    assert {k: held.get(k) for k in MEASURED} == {k: measured.get(k) for k in MEASURED}
    before = state(out)
    assert main(resume(out)) == 0
    assert state(out) == before


def test_a_card_that_can_not_be_written_is_made_up_by_resume(whole: Path, tmp_path: Path, monkeypatch, capsys):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "export" / "README.md").rename(out / "export" / ".README.md.0123abcd.part")  # as a killed writer leaves it

    def full(*_: object) -> None:
        raise NotWritten(out / "export" / "README.md", "no room", "make room")

    with monkeypatch.context() as patch:
        patch.setattr(card, "write_text", full)
        assert main(resume(out)) == 1
    line = f"{out / 'export' / 'README.md'} can't be written: no room; make room, then {RESUME} to write its card"
    assert line in capsys.readouterr().err
    assert main(resume(out)) == 0
    assert f"wrote the card that {out / 'export'} lacked" in capsys.readouterr().out
    assert (out / "export" / "README.md").read_text(encoding="utf-8") == card.render(out / "export")
    assert list((out / "export").glob(".*.part")) == []


def test_a_damaged_results_file_is_named_before_any_step(whole: Path, tmp_path: Path, capsys):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "export" / "results.json").write_text("[]")
    assert main(resume(out)) == 1
    assert f"{out / 'export' / 'results.json'} is not a valid results.json" in capsys.readouterr().err


def test_a_new_run_does_not_take_the_place_of_a_model(whole: Path, tmp_path: Path, capsys):
    """Of which only the export is left, with what was measured of it."""
    (tmp_path / "run").mkdir()
    shutil.copytree(whole / "export", tmp_path / "run" / "export")
    before = state(tmp_path)
    assert main(command(tmp_path / "run", settings=("epochs=1",))) == 1
    assert (
        "export holds a model already; remove it, or choose another folder (--out, out=...)" in capsys.readouterr().err
    )
    assert state(tmp_path) == before


def test_no_other_command_changes_what_was_measured(whole: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    out, before = str(whole), (whole / "export" / "results.json").read_bytes()
    for line in (
        ["card", out], ["report", out, "--out", str(tmp_path / "x.html")],
        ["install", out, "star_test_resnet.mine"],
        ["publish", out, "me/name", "--dry-run", "--out", str(tmp_path / "staged")],
        ["convert", str(whole / "export"), "--to-released", str(tmp_path / "back.pth")],
        ["eval", "knn", out, "--data", "nothing", "--out", str(tmp_path / "results.json")],
        ["pretrain", "spirograph_tiny", "--out", out],
        command(tmp_path / "next", "--init-from", out, settings=("epochs=1",)),
    ):  # fmt: skip
        main(line)
        assert (whole / "export" / "results.json").read_bytes() == before, line
    assert (tmp_path / "next" / "export" / "results.json").is_file()


def test_a_finished_fine_tuning_is_as_it_was_after_resume(whole: Path, tmp_path: Path, capsys):
    images, out, start = coloured(tmp_path / "images"), tmp_path / "tuned", tmp_path / "start"
    shutil.copytree(whole / "export", start)
    words = ["finetune", str(start), "--data", str(images), "--out", str(out)]
    for change in ("views.size=32", "batch_size=8", "epochs=1", "run.workers=0", "precision=no"):
        words += ["--set", change]
    assert main(words) == 0
    (tuned,) = json.loads((out / "export" / "results.json").read_text())["evaluations"]
    assert json.loads((start / "results.json").read_text())["evaluations"] == [*MEASURED["evaluations"], tuned]
    write_json(out / "export" / "results.json", {"evaluations": [*MEASURED["evaluations"], tuned]})
    before = state(tmp_path)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    assert f"{out} is finished" in capsys.readouterr().out
    assert state(tmp_path) == before
    (out / "export" / "config.json").unlink()
    (start / "results.json").unlink()
    (start / "results.json").mkdir()  # so that nothing can be recorded there
    assert main(["finetune", "--resume", "--out", str(out)]) == 0
    assert f"not added to {start / 'results.json'}: " in capsys.readouterr().out
    (start / "results.json").rmdir()
    evaluations = json.loads((out / "export" / "results.json").read_text())["evaluations"]
    assert evaluations[0] == MEASURED["evaluations"][0] and [r["protocol"] for r in evaluations] == ["knn", "finetune"]
    (start / "results.json").write_text("[]")
    assert main([*words[:-1], words[-1], "--out", str(tmp_path / "other")]) == 1  # before anything is trained
    assert "is not a valid results.json" in capsys.readouterr().err and not (tmp_path / "other").exists()
