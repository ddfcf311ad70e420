"""`star_training.evaluate`, `compare` and `report` measure as the commands do, and return the printed results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import star_training
from data_cases import encoded, write_parquet
from star_training.api.evaluations import SomeFailed
from star_training.cli.main import main
from star_training.engine.results import read
from star_training.engine.signals import Stopped
from star_training.evaluation import frozen_model, many
from star_training.evaluation.protocols import few_shot
from star_training.evaluation.record import Record
from star_training.reports.tables import Table, markdown


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(frozen_model, "_PIXELS", 4)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Noise of three classes, which differ in brightness."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray((rng.integers(0, 90, (8, 8, 3)) + 60 * (k % 3)).astype(np.uint8)) for k in range(60)]
    return write_parquet(
        tmp_path / "three.parquet",
        image=[encoded(picture, "PNG") for picture in pictures],
        label=[k % 3 for k in range(60)],
        split=["train"] * 30 + ["test"] * 30,
    )


def test_evaluate_returns_the_records_that_it_stores(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, seen = tmp_path / "results.json", []
    found = star_training.evaluate("pixels", "knn", data=images, out=out, each=seen.append)
    assert [record.to_dict() for record in found.records] == read(out)["evaluations"] == [r.to_dict() for r in seen]
    value = found.records[0].metrics["knn1_top1"].value
    assert str(found).startswith("pixels") and f"1-NN top-1, %   {100 * value:.1f} [" in str(found)
    assert f"| 1-NN top-1, % | {100 * value:.1f} [" in found._repr_markdown_()
    assert f"\n  1-NN top-1, %   {100 * value:.1f} [" in str(found.records[0])
    assert capsys.readouterr().out == ""  # the summary of the data goes to standard error
    assert main(["eval", "knn", "pixels", "--data", str(images)]) == 0
    printed = re.sub(r"\(\d+ s\)", "", capsys.readouterr().out)
    assert printed == re.sub(r"\(\d+ s\)", "", f"{found.records[0]}\n")


def test_of_several_protocols_the_others_are_finished(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*given: object) -> None:
        raise ValueError("the episodes are broken")

    monkeypatch.setattr(few_shot, "run", broken)
    out = tmp_path / "results.json"
    message = "^1 of 3 evaluations failed: few_shot on three; the first: the episodes are broken$"
    with pytest.raises(SomeFailed, match=message) as raised:
        star_training.evaluate("pixels", ["knn", "few_shot", "regression"], data=[images], out=out)
    assert [record.protocol for record in raised.value.found.records] == ["knn"]
    assert [record["protocol"] for record in read(out)["evaluations"]] == ["knn"]
    failed, unfit = raised.value.found.reasons
    assert failed == "few_shot on three failed: the episodes are broken" and unfit.startswith(
        "regression on three not applicable: "
    )
    assert failed in str(raised.value.found) and f"- {unfit}" in raised.value.found._repr_markdown_()


def test_an_interrupt_says_how_much_is_finished(images: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Stopped) as raised:
        star_training.evaluate("pixels", ["knn", "linear"], data=images, each=interrupted)
    way = "1 of 2 evaluations are finished; the same call goes on with the rest"
    assert str(raised.value) == f"stopped by SIGINT; {way}"
    computed: list[str] = []
    evaluate = many.evaluate
    monkeypatch.setattr(many, "evaluate", lambda name, *rest: computed.append(name) or evaluate(name, *rest))
    found = star_training.evaluate("pixels", ["knn", "linear"], data=images)
    assert computed == ["linear"] and [record.protocol for record in found.records] == ["knn", "linear"]


def test_wrong_arguments_are_refused_as_on_the_command_line(images: Path):
    with pytest.raises(ValueError, match=r"protocol 'kn' not found; did you mean 'knn'\? known: "):
        star_training.evaluate("pixels", "kn", data=images)
    with pytest.raises(ValueError, match="'nowhere' doesn't exist or can't be reached"):
        star_training.evaluate("pixels", "knn", data="nowhere")
    with pytest.raises(ValueError, match="workers is -1"):
        star_training.compare("pixels", "pixels", data=images, workers=-1)


def test_compare_returns_the_rows_that_it_stores(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "results.json"
    arguments = {"data": images, "protocol": "knn", "out": out}
    found = star_training.compare("pixels", "untrained:test_resnet", **arguments)
    (stored,) = read(out)["comparisons"]
    assert json.loads(json.dumps([row._asdict() for row in found.rows]))[0]["first"] == stored["rows"][0]["first"]
    command = ["compare", "pixels", "untrained:test_resnet", "--data", str(images), "--protocol", "knn"]
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == markdown(found.table) == found._repr_markdown_()


def test_report_returns_its_page(images: Path, tmp_path: Path):
    star_training.evaluate("pixels", "knn", data=images, out=tmp_path / "results.json")
    found = star_training.report(tmp_path / "results.json", out=tmp_path / "page.html")
    assert "Accuracy by data set" in found.titles and str(found).splitlines()[-1] == str(tmp_path / "page.html")
    frame = found._repr_html_()
    assert frame.startswith('<iframe srcdoc="') and "&lt;table" in frame and "<table" not in frame


def test_a_table_prints_in_columns():
    table = Table("", ["metric", "a"], [["1-NN", "70.1"], ["a long name", "1"]])
    assert str(table) == "metric       a\n1-NN         70.1\na long name  1"
    assert table._repr_markdown_() == markdown(table)
