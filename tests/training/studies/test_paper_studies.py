"""A dry run of the paper's studies, from images in their official layouts to the table: too short to mean anything."""

import dataclasses
import functools
import json
from pathlib import Path

import pytest

import stand_ins
from star_training import studies
from star_training.data import DataError
from star_training.evaluation.protocols import equivariance, few_shot
from star_training.reports.tables import Table
from star_training.settings.base import override
from star_training.studies import jobs
from star_training.studies import run as reproduction
from star_training.studies.study import MEAN, Study

# four steps of a small backbone, under the study's own policy but for its views' size
SMALL = (
    "backbone=test_resnet",
    "data.limit=32",
    "batch_size=8",
    "precision=no",
    "channels_last=false",
    "objective_args.hidden=16",
    "policy.augmentations.0.size=32",
    "policy.augmentations.4.kernel=3",
    "run.log_every=1",
)
NAMES = ("stl10_paper", "in100_paper")


def small(name: str, others: tuple[str, ...] = ("equimod",)) -> Study:
    """A study's main method with two seeds beside others with one; all that it measures is measured."""
    whole = studies.find(name)
    main = whole.pairs[0][0]
    methods = tuple(
        method._replace(seeds=1 + (method.name == main)) for method in whole.methods if method.name in (*others, main)
    )
    hasty = whole.in_haste()
    recipe = override(hasty.recipe, SMALL)
    return dataclasses.replace(hasty, recipe=recipe, methods=methods, measures=whole.measures, transfer=whole.transfer)


def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the two protocols that draw by the thousand draw by the dozen."""
    monkeypatch.setattr(few_shot, "accuracies", functools.partial(few_shot.accuracies, tasks=20))
    monkeypatch.setattr(equivariance, "_SEARCHED", 20)
    monkeypatch.setattr(equivariance, "_VIEWS", 10)


def times(folder: Path) -> dict[Path, int]:
    """When each file was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# From images to the table


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::star_training.evaluation.protocols.redundancy.FewImagesWarning"
)  # which a dry run may have
def test_a_study_of_the_paper_fills_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study, out = small("stl10_paper"), tmp_path / "out"
    folder = stand_ins.make(tmp_path / "data", monkeypatch, study.images.name)
    fewer(monkeypatch)
    reproduction.check(study, folder)
    runs = [reproduction.name_of(*run) for run in reproduction.runs(study)]
    assert len(runs) == len(study.methods) + 1
    for run in runs:
        reproduction.run_one(study, run, out, folder)
        measured_in_full(study, run, out)
    _, methods, differences, claims = reproduction.report(study, out)
    holds_numbers(study, methods)
    assert {row[0] for row in differences.rows} == {row[0] for row in methods.rows}
    speaks_of_all(claims)
    assert f"| {MEAN} |" in (out / "table.md").read_text() and (out / "report.html").stat().st_size > 10_000

    before = {run: times(out / run) for run in runs}
    written = (out / "results" / f"{runs[0]}.json").read_text()
    reproduction.run_one(study, runs[0], out, folder)
    assert {run: times(out / run) for run in runs} == before  # nothing is trained or measured anew
    assert (out / "results" / f"{runs[0]}.json").read_text() == written


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::star_training.evaluation.protocols.redundancy.FewImagesWarning")
def test_a_run_of_the_other_study_is_measured_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study, out = small("in100_paper", ("simclr",)), tmp_path / "out"
    folder = stand_ins.make(tmp_path / "data", monkeypatch, study.images.name)
    fewer(monkeypatch)
    reproduction.check(study, folder)
    run = reproduction.name_of(study.methods[0], 0)
    reproduction.run_one(study, run, out, folder)
    measured_in_full(study, run, out)


def measured_in_full(study: Study, run: str, out: Path) -> None:
    """Whether a run's outcome has every protocol on all of its data, but no routing where there are no routers."""
    records = json.loads((out / "results" / f"{run}.json").read_text())["evaluations"]
    wanted = [(measure.protocol, name) for measure in study.measures for name in measure.data]
    impossible = {("routing", study.images.name)} if run.startswith("simclr") else set()
    assert [(r["protocol"], r["data"]) for r in records] == [one for one in wanted if one not in impossible]


def holds_numbers(study: Study, table: Table) -> None:
    """Whether the two accuracies have a number of each method on each set, and a label is that of its image."""
    names = [method.name for method in study.methods]
    assert table.head == ["metric", "data", *names]
    rows = {(metric, data): cells for metric, data, *cells in table.rows}
    for metric in ("Linear accuracy, %", "20-NN top-1, %"):
        assert {data for found, data in rows if found == metric} == {study.images.name, *study.transfer, MEAN}
        for data in (study.images.name, *study.transfer, MEAN):
            found = [float(cell.split()[0]) for cell in rows[metric, data]]
            assert all(95 < value <= 100 for value in found), (metric, data, found)  # of 12 images none may be missed
    for method, cell in zip(study.methods, rows["Linear accuracy, %", MEAN], strict=True):
        assert (" [" in cell) == (method.seeds > 1)


def speaks_of_all(claims: Table) -> None:
    """Whether every claim has its row, and those about the three methods a finding."""
    assert [row[0] for row in claims.rows] == [f"C{number}" for number in range(1, 11)]
    found = {row[0]: row[2] for row in claims.rows}
    assert not [name for name in ("C1", "C4", "C7", "C9", "C10") if found[name] == "not tested"]


# What is missing


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lacks", ["images", "caltech101", "cifar100", "sun397"])
def test_a_missing_set_is_reported_before_anything_is_trained(
    name: str, lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study, out, begun = small(name), tmp_path / "out", []
    monkeypatch.setattr(jobs, "run", lambda *arguments: begun.append(arguments))
    for data in study.data:
        (tmp_path / data).mkdir()
    missing = tmp_path / (study.images.name if lacks == "images" else lacks)
    missing.rmdir()
    message = f"the study needs {missing.name}: neither {missing}.parquet nor the folder {missing} exists"
    with pytest.raises(DataError) as refused:
        reproduction.check(study, tmp_path)
    assert message in str(refused.value)
    with pytest.raises(DataError) as refused:
        reproduction.run_all(study, study.name, out, tmp_path, [], 1, 1)
    assert message in str(refused.value) and not begun and not out.exists()
    missing.mkdir()
    reproduction.run_all(study, study.name, out, tmp_path, [], 1, 1)
    assert len(begun) == 1
