"""Fusions of a study's runs, trained and measured for real in two steps, and the tables of policies, by hand."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data_cases import encoded, write_parquet
from star_training import recipes, studies
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation.frozen_model import load
from star_training.evaluation.metrics import ACCURACY, SHARE, Metric
from star_training.evaluation.protocols import knn
from star_training.settings.base import override
from star_training.studies import outcome
from star_training.studies import run as reproduction
from star_training.studies.definitions import invariances
from star_training.studies.outcome import Outcome
from star_training.studies.study import Fusion, Images, Measure, Method, Study
from star_zoo import wrappers
from twins import photos

TINY = (
    "backbone_args.channels=[8,8,8,8]", "backbone_args.stem_width=8", "epochs=1", "batch_size=10", "precision=no",
    "channels_last=false", "run.eval_every=0",
)  # fmt: skip


def policies(name: str = "pack") -> Study:
    """Two policies and their fusion, two steps each."""
    return Study(
        name="policies",
        recipe=override(recipes.find("cifar10_small"), TINY),
        images=Images(name),
        methods=(Method("ventral", "simclr", ("policy=ventral",)), Method("dorsal", "simclr", ("policy=dorsal",))),
        fusions=(Fusion("both", ("dorsal", "ventral")),),
        measures=(Measure("knn", (name,)), Measure("routing", (name,))),
    )


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    images = photos(40, 32, 32)
    files = [encoded(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), "PNG") for image in images]
    write_parquet(
        tmp_path / "pack.parquet", image=files, label=[k // 2 % 2 for k in range(40)], split=["train", "test"] * 20
    )
    return tmp_path


def test_a_fusion_is_measured_after_its_parts_and_has_their_features_and_cost(packs: Path, tmp_path: Path):
    study, out = policies(), tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"both-0 needs .*dorsal-0\.json; run the study without --only first"):
        reproduction.run_one(study, "both-0", out, packs)
    runs = [reproduction.name_of(*run) for run in reproduction.runs(study)]
    assert runs == ["ventral-0", "dorsal-0", "both-0"]
    for run in runs:
        reproduction.run_one(study, run, out, packs)

    found = {run: outcome.load(out / "results" / f"{run}.json") for run in runs}
    both, (dorsal, ventral) = found["both-0"], (found["dorsal-0"], found["ventral-0"])
    assert [record["protocol"] for record in both.content["evaluations"]] == ["knn"]  # no routing without experts
    splits = Splits(str(packs / "pack.parquet"))
    joined = load(f"concat:{out / 'dorsal-0'}+{out / 'ventral-0'}")
    parts = [load(str(out / name)).features(splits.test) for name in ("dorsal-0", "ventral-0")]
    torch.testing.assert_close(joined.features(splits.test), torch.cat(parts, 1))
    assert both.metrics["knn20_top1", "pack"].value == knn.run(joined, splits).metrics["knn20_top1"].value
    for key in ("images", "seconds"):
        assert both.content["training"][key] == sum(part.content["training"][key] for part in (dorsal, ventral))
    assert both.recipes == [dorsal.content["recipe"], ventral.content["recipe"]]
    assert dorsal.recipes == [dorsal.content["recipe"]] and str(packs) not in json.dumps(both.content)

    short, *_ = reproduction.report(study, out)
    assert [row[0] for row in short.rows] == ["ventral", "dorsal", "both"]
    before = (out / "both-0" / "results.json").stat().st_mtime_ns
    reproduction.run_one(study, "both-0", out, packs)
    assert (out / "both-0" / "results.json").stat().st_mtime_ns == before  # nothing is measured again

    reproduction.run_all(study, study.name, out, packs, [], 1, 1)  # all runs have outcomes: no process starts
    longer = dataclasses.replace(study, recipe=override(study.recipe, ["epochs=2"]))
    (out / "results" / "ventral-0.json").unlink()
    (out / "results" / "dorsal-0.json").unlink()
    with pytest.raises(ValueError, match=r"both-0\.json has other settings \(theirs, yours\): epochs: 1, 2"):
        reproduction.run_all(longer, longer.name, out, packs, [], 1, 1)


def test_fusions_wait_for_all_methods(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    waves: list[list[str]] = []
    monkeypatch.setattr(reproduction.jobs, "run", lambda jobs, at_once: waves.append([job.name for job in jobs]))
    reproduction.run_all(policies().seeds(2), "policies", tmp_path / "out", packs, [], 8, 1)
    assert waves == [["ventral-0", "dorsal-0", "ventral-1", "dorsal-1"], ["both-0", "both-1"]]


@pytest.mark.parametrize("study", [policies(), studies.find("invariances_small")])
def test_the_fusions_of_a_study_can_be_made(study: Study):
    for fusion in study.fusions:
        parts = study.parts(fusion)
        assert [part.name for part in parts] == list(fusion.methods)
        assert fusion.seeds <= min(part.seeds for part in parts)
        assert fusion.wrapper in wrappers.known()


def test_a_fusion_brings_its_methods():
    study = studies.find("invariances_small")
    some = study.only(["fusion"])
    assert [column.name for column in some.columns] == ["default", "ventral", "dorsal", "fusion"]
    assert set(some.pairs) == {("dorsal", "ventral"), ("fusion", "default")}
    assert [column.name for column in study.only(["wide", "dorsal"]).columns] == ["dorsal", "wide"]
    assert {column.seeds for column in study.seeds(5).columns} == {5}
    with pytest.raises(ValueError, match="method 'fusions' not found; did you mean 'fusion'"):
        study.only(["fusions"])


# Tables of policies


def measured(method: str, seed: int, accuracy: float, colour: list[float]) -> Outcome:
    """One run with its accuracy on a data set, its cosine under colours, and that by image."""
    metrics = {
        ("linear_accuracy", "pack"): Metric("linear_accuracy", "Linear", SHARE, ACCURACY, accuracy),
        ("cosine_colour", "cifar10"): Metric("cosine_colour", "c", "", "invariance", sum(colour) / len(colour)),
    }
    by_image = {name: [0.0] * len(colour) for name in ("crop", "spatial", "detail")} | {"colour": colour}
    record: dict[str, Any] = {"protocol": "invariance", "details": {"by image": by_image}}
    return Outcome(method, seed, metrics, {"evaluations": [record]})


OUTCOMES = [
    measured("dorsal", 0, 0.50, [0.9, 0.8, 0.7]),
    measured("dorsal", 1, 0.54, [0.9, 0.9, 0.9]),
    measured("ventral", 0, 0.49, [0.5, 0.5, 0.5]),
    measured("ventral", 1, 0.49, [0.5, 0.4, 0.3]),
    measured("both", 0, 0.60, [0.7, 0.7, 0.7]),
    measured("wide", 0, 0.55, [0.6, 0.6, 0.6]),
]


def of_policies() -> Study:
    wide = Method("wide", "simclr")
    return dataclasses.replace(policies(), methods=(*policies().methods, wide), pairs=(("dorsal", "ventral"),))


def test_the_best_policy_is_named_with_its_lead():
    table = invariances.accuracies(of_policies(), OUTCOMES)
    assert table.head == [
        "metric", "data", "ventral", "dorsal", "wide", "both", "best policy", "its lead", "both - best policy",
        "both - wide",
    ]  # fmt: skip
    (row,) = table.rows
    # dorsal leads by 1 and 5 points, 3 on average; Student's interval of two is 12.706 times their standard error of 2
    half = 12.706 * 2
    assert row[:2] == ["Linear, %", "pack"] and row[2] == "49.0 ± 0.0" and row[4:7] == ["55.0", "60.0", "dorsal"]
    assert row[7] == f"3.0 ± {half:.1f}" and row[8:] == ["10.0", "5.0"]


def test_cosines_are_listed_by_transformation_with_the_difference_by_seed():
    table = invariances.cosines(of_policies(), OUTCOMES)
    rows = {row[0]: row for row in table.rows}
    assert rows["colour"][1] == "mean of the group" and rows["hue"][1] == "colour" and rows["crop"][1] == "spatial"
    assert rows["colour"][4:6] == ["0.600", "0.700"] and rows["colour"][6].startswith("0.400 ± ")
    assert set(rows["hue"][2:]) == {"-"}  # not measured


def test_differences_by_image_are_paired():
    table = invariances.pairs_by_image(of_policies(), OUTCOMES)
    colour = table.head.index("colour")
    assert [row[0] for row in table.rows] == ["0", "1"]
    # 0.4, 0.3, 0.2: mean 0.3, standard error 0.1 / sqrt(3); the same numbers the other way round in the second seed
    half = 1.96 * 0.1 / 3**0.5
    assert table.rows[0][colour] == f"+0.300 [+{0.3 - half:.3f}, +{0.3 + half:.3f}]"
    assert table.rows[1][colour].startswith("+0.500 [") and table.rows[0][1] == "0.000 [0.000, 0.000]"
