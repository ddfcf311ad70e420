"""A study whose runs start from given weights: the start is measured like its runs, and compared with every seed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from data_cases import encoded, write_parquet
from star_training import recipes
from star_training.data import DataError
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation.features import timm_view
from star_training.evaluation.frozen_model import load
from star_training.evaluation.metrics import ACCURACY, SHARE, Metric
from star_training.evaluation.protocols import knn
from star_training.settings.base import differences, override
from star_training.studies import aggregate, one_run, outcome
from star_training.studies import run as reproduction
from star_training.studies.outcome import Outcome
from star_training.studies.study import Images, Measure, Method, Place, Start, Study
from twins import photos

SIZE, MEAN = 24, (0.4, 0.5, 0.6)
CHANGES = (
    "backbone=resnet10t", "backbone_args.channels=[8,8,8,8]", "backbone_args.stem_width=8", "epochs=1", "batch_size=10",
    "precision=no", "channels_last=false", "run.eval_every=0", f"policy.augmentations.0.size={SIZE}",
    f"policy.mean={json.dumps(MEAN)}",
)  # fmt: skip
SMALL = {"channels": [8, 8, 8, 8], "stem_width": 8}


def continued() -> Study:
    """Two objectives from the same weights, two steps each."""
    return Study(
        name="continued",
        recipe=override(recipes.find("cifar10_small"), CHANGES),
        images=Images("pack"),
        start=Start("start", "weights"),
        methods=(Method("simclr", "simclr", seeds=2), Method("simsiam", "simsiam")),
        measures=(Measure("knn", ("pack",)), Measure("routing", ("pack",)), Measure("equivariance", ("pack",))),
        pairs=(("simclr", "start"), ("simclr", "simsiam")),
        headline=(Place("knn20_top1", "pack"),),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A labelled set, and weights that were trained at another size with other pixel statistics."""
    images = photos(40, SIZE, SIZE)
    files = [encoded(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), "PNG") for image in images]
    write_parquet(
        tmp_path / "pack.parquet", image=files, label=[k // 2 % 2 for k in range(40)], split=["train", "test"] * 20
    )
    torch.manual_seed(3)
    save_for_hf(timm.create_model("resnet10t", **SMALL), tmp_path / "weights", model_args=SMALL)
    return tmp_path


def test_the_start_is_measured_first_on_views_like_those_of_the_runs(folder: Path, tmp_path: Path):
    study, out = continued(), tmp_path / "out"
    runs = [reproduction.name_of(*run) for run in reproduction.runs(study)]
    assert runs == ["start-0", "simclr-0", "simsiam-0", "simclr-1"]
    for run in runs[:3]:
        reproduction.run_one(study, run, out, folder)

    start = outcome.load(out / "results" / "start-0.json")
    assert start.recipes == [] and str(folder) not in json.dumps(start.content)
    assert [record["protocol"] for record in start.content["evaluations"]] == ["knn", "equivariance"]
    # the same weights in a folder that says the size and the statistics of the runs' views
    overlay = {"input_size": (3, SIZE, SIZE), "crop_pct": 1.0, "mean": MEAN, "std": study.recipe.policy.std}
    model = timm.create_model(
        f"local-dir:{folder / 'weights'}", pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay
    )
    save_for_hf(model, tmp_path / "twin", model_args=SMALL | {"num_classes": 0})
    splits = Splits(str(folder / "pack.parquet"))
    expected = knn.run(load(str(tmp_path / "twin")), splits).metrics["knn20_top1"].value
    assert start.metrics["knn20_top1", "pack"].value == expected

    recipe = json.loads((out / "simclr-0" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["init_from"] == str(folder / "weights")
    short, *_ = reproduction.report(study, out)
    assert [row[:2] for row in short.rows] == [["start", "1"], ["simclr", "1"], ["simsiam", "1"]]
    assert short.rows[0][2] == f"{100 * expected:.1f}"


def test_runs_with_an_outcome_are_skipped_wherever_the_weights_lie(folder: Path, tmp_path: Path, monkeypatch):
    study, out = continued().only(["simsiam"]), tmp_path / "out"
    for run in ("start-0", "simsiam-0"):
        reproduction.run_one(study, run, out, folder)
    waves: list[list[str]] = []
    monkeypatch.setattr(reproduction.jobs, "run", lambda jobs, at_once: waves.append([job.name for job in jobs]))
    moved = folder.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    reproduction.run_all(study, study.name, moved / "out", moved, [], 1, 1)
    assert waves == []
    reproduction.run_all(continued(), study.name, moved / "other", moved, [], 1, 1)
    assert waves == [["start-0", "simclr-0", "simsiam-0", "simclr-1"]]


def test_the_outcome_of_another_start_is_refused(folder: Path, tmp_path: Path):
    study, out = continued(), tmp_path / "out"
    reproduction.run_one(study, "start-0", out, folder)
    before = (out / "start-0" / "results.json").read_text(encoding="utf-8")
    larger = dataclasses.replace(study, recipe=override(study.recipe, ["policy.augmentations.0.size=32"]))
    with pytest.raises(ValueError, match=r"start-0\.json is of another start than .*weights; choose another --out"):
        reproduction.run_all(larger, study.name, out, folder, [], 1, 1)
    save_for_hf(timm.create_model("resnet10t", **SMALL), folder / "weights", model_args=SMALL)
    with pytest.raises(ValueError, match="is of another start"):
        reproduction.run_all(study, study.name, out, folder, [], 1, 1)
    reproduction.run_one(study, "start-0", out, folder)  # measures it again, because the weights are others
    assert (out / "start-0" / "results.json").read_text(encoding="utf-8") != before


def test_a_stopped_run_goes_on_where_the_weights_were_moved(folder: Path, tmp_path: Path):
    study, out = continued(), tmp_path / "out"
    recipe = study.recipe_of(study.methods[0], 0, folder)
    (out / "simclr-0").mkdir(parents=True)
    (out / "simclr-0" / "recipe.json").write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
    moved = folder.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    reproduction.run_one(study, "simclr-0", moved / "out", moved)
    assert (moved / "out" / "results" / "simclr-0.json").is_file()
    other = override(recipe, ["init_from=elsewhere/others"])
    assert differences(recipe, other) == ["init_from: 'weights', 'others'"]


def test_pixel_statistics_that_are_not_known_yet_are_refused(folder: Path, tmp_path: Path):
    study = dataclasses.replace(continued(), recipe=override(continued().recipe, ["policy.mean=auto"]))
    with pytest.raises(ValueError, match=r"measures its start, so its recipe needs policy\.mean and policy\.std"):
        reproduction.run_one(study, "start-0", tmp_path / "out", folder)


def test_checkpoints_are_measured_as_the_model_that_they_end_in(folder: Path, tmp_path: Path):
    """With the pixel statistics that the run estimated from its images."""
    recipe = override(continued().recipe, ["policy.mean=auto", "run.checkpoint_every=1", "run.keep=9"])
    study = dataclasses.replace(continued(), recipe=recipe, start=None, steps=(1, 2), transfer_over_steps=("pack",))
    seen: list[tuple[float, ...]] = []

    def view(model: Any) -> Any:
        seen.append(model.pretrained_cfg["mean"])
        return timm_view(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_run, "timm_view", view)
        reproduction.run_one(study, "simsiam-0", tmp_path / "out", folder)
    saved = json.loads((tmp_path / "out" / "simsiam-0" / "recipe.json").read_text(encoding="utf-8"))
    assert seen == [tuple(saved["policy"]["mean"])] * 2 and all(seen[0])
    found = outcome.load(tmp_path / "out" / "results" / "simsiam-0.json")
    first, last = found.content["transfer over steps"]
    assert (first["step"], last["step"]) == (1, 2)
    assert last["knn20_top1"]["pack"] == found.metrics["knn20_top1", "pack"].value


def test_missing_weights_are_an_error_before_any_training(folder: Path, tmp_path: Path):
    (folder / "weights").rename(folder / "elsewhere")
    with pytest.raises(DataError, match=r"starts from the weights in .*weights, which does not exist; make"):
        reproduction.run_all(continued(), "continued", tmp_path / "out", folder, [], 1, 1)


def test_the_start_comes_with_every_method():
    some = continued().only(["simclr"])
    assert [column.name for column in some.columns] == ["start", "simclr"] and some.pairs == (("simclr", "start"),)
    assert [column.seeds for column in some.seeds(3).columns] == [1, 3]
    assert [column.name for column in continued().only(["start"]).columns] == ["start"]


def measured(method: str, seed: int, accuracy: float) -> Outcome:
    content: dict[str, Any] = {"evaluations": []}
    return Outcome(
        method, seed, {("knn20_top1", "pack"): Metric("knn20_top1", "20-NN", SHARE, ACCURACY, accuracy)}, content
    )


def test_the_start_is_compared_with_every_seed():
    outcomes = [measured("start", 0, 0.5), measured("simclr", 0, 0.6), measured("simclr", 1, 0.4)]
    place = Place("knn20_top1", "pack")
    assert aggregate.difference(continued(), outcomes, "simclr", "start", place) == pytest.approx([0.1, -0.1])
    assert aggregate.difference(continued(), outcomes[1:], "simclr", "start", place) == []
    assert aggregate.difference(continued(), outcomes, "start", "simclr", place) == pytest.approx([-0.1, 0.1])
    plain = dataclasses.replace(continued(), start=None)
    assert aggregate.difference(plain, outcomes, "simclr", "start", place) == pytest.approx([0.1])
