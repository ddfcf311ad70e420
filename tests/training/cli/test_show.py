"""`--show` lists every setting, as changed by the command line, without looking for the images."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from star_training import recipes, studies
from star_training.cli.main import main
from star_training.detection.recipes.coco import coco256
from star_training.finetuning.config import FineTune, LabelledData
from star_training.settings import show
from star_zoo import objectives
from star_zoo.augmentations.policy import KNOWN


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main([*arguments, "--show"]) == 0
    return capsys.readouterr().out.splitlines()


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The values of nested data by path, where an augmentation is named by its name."""
    if isinstance(value, dict) and value:
        found = {}
        for key, inner in value.items():
            found |= leaves(inner, f"{path}.{key}".lstrip("."))
        return found
    if isinstance(value, list) and value and isinstance(value[0], dict):
        found = {}
        for one in value:
            found |= leaves({key: inner for key, inner in one.items() if key != "name"}, f"{path}.{one['name']}")
        return found
    return {path: value}


def close(a: Any, b: Any) -> bool:
    """Whether values are equal, and numbers to six digits."""
    if isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, rel=1e-5) if isinstance(b, float) else a == b


@pytest.mark.parametrize("name", recipes.known())
def test_every_setting_of_a_recipe_is_listed_once_with_its_value(name: str):
    recipe = recipes.find(name)
    defaults = objectives.settings(recipe.objective)
    rows = show.rows(recipe, {"objective_args": show.keywords_of(objectives.find(recipe.objective), defaults)})
    expected = leaves(recipe.to_dict() | {"objective_args": json.loads(json.dumps(defaults | recipe.objective_args))})
    assert {row.path for row in rows} == set(expected) and len(rows) == len(expected)
    for row in rows:
        value = expected[row.path]
        assert row.value == value if isinstance(value, str) else close(json.loads(row.value), value), row


def test_a_row_states_default_type_and_meaning():
    rows = {row.path: row for row in show.rows(recipes.find("folder"), {})}
    assert rows["batch_size"] == ("batch_size", "128", "256", "int", "images in one loss, over all processes")
    assert rows["epochs"] == ("epochs", "100", "", "int", "passes over the images")
    assert rows["run.keep"].meaning == "checkpoints; older ones are deleted"  # inherited
    assert rows["optimizer.clip"] == ("optimizer.clip", "null", "null", "float | None", "largest gradient norm")
    tuned = {row.path: row for row in show.rows(FineTune(model="a", data=LabelledData(source="b")), {})}
    assert tuned["optimizer.lr"].default == tuned["optimizer.lr"].value == "0.008"  # of the subclass
    assert tuned["optimizer.name"].meaning == "timm's"  # not that of the field that it replaces
    assert tuned["views.ratio"].value == "[0.75, 1.33333]"


@pytest.mark.parametrize("name", objectives.known())
def test_every_setting_of_an_objective_has_a_type_and_a_meaning(name: str):
    known = show.keywords_of(objectives.find(name), objectives.settings(name))
    assert {setting: one.default for setting, one in known.items()} == objectives.settings(name)
    assert [setting for setting, one in known.items() if not one.type or not one.meaning] == []


def test_every_other_setting_has_a_meaning():
    for settings in (recipes.find("folder"), FineTune(model="a", data=LabelledData(source="b")), coco256("m")):
        assert [row.path for row in show.rows(settings, {}) if not (row.meaning or "_args" in row.path)] == []
    temperature = show.keywords_of(objectives.find("star"), objectives.settings("star"))["temperature"]  # of its base
    assert temperature == (0.2, "float", "of both terms' nt_xent, moco or moco_v3; released code")


def test_changes_are_shown_and_nothing_is_opened_or_written(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    changes = ["--set", "policy=dorsal", "--set", "policy.augmentations+=Solarize", "--set", "optimizer.lr=0.5"]
    lines = shown(capsys, "pretrain", "folder", "--data", "nowhere", "--objective", "simclr", *changes)
    assert lines[0].split() == ["setting", "value", "default", "type", "meaning"]
    cells = {line.split()[0]: line.split() for line in lines if line}
    assert cells["data.source"][1] == "nowhere" and cells["objective"][1] == "simclr"
    assert cells["optimizer.lr"][1:4] == ["0.5", "0.03", "float"]
    assert cells["policy.augmentations.Solarize.threshold"][1] == "0.5"
    assert not any(path.startswith("policy.augmentations.Flip") for path in cells)
    assert {path for path in cells if path.startswith("objective_args.")} == {
        f"objective_args.{name}" for name in objectives.settings("simclr")
    }
    assert list(tmp_path.iterdir()) == []


def test_known_augmentations_are_listed_with_their_fields(capsys):
    lines = shown(capsys, "pretrain", "spirograph_tiny")
    known = lines[next(i for i, line in enumerate(lines) if line.startswith("augmentations, for --set")) + 1 :]
    assert [line.split(":")[0].strip() for line in known] == list(KNOWN)
    for line, kind in zip(known, KNOWN.values(), strict=True):
        for field in dataclasses.fields(kind):
            assert f" {field.name}" in line
    assert "  Solarize: p=0.2, threshold=0.5" in known


@pytest.mark.parametrize("command", ["finetune", "detect"])
def test_other_trainings_need_neither_model_nor_images_to_show_their_settings(command: str, capsys):
    cells = {line.split()[0]: line.split() for line in shown(capsys, command, "--set", "seed=3")}
    assert cells["model"][1] == "MODEL" and cells["seed"][1:4] == ["3", "0", "int"]
    assert "data.source" in cells and "run.checkpoint_every" in cells


def test_a_study_shows_its_recipe_its_methods_and_its_measurements(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = studies.find("cifar10_small").seeds(2)
    lines = shown(capsys, "reproduce", "cifar10_small", "--seeds", "2")
    cells = {line.split()[0]: line.split() for line in lines if line}
    assert cells["epochs"][1] == str(study.recipe.epochs)
    assert [line for line in lines if line.startswith("  star_8: star") and line.endswith("; 2")]
    assert {line.split()[0] for line in lines if line.startswith("  ")} == {
        f"{method.name}:" for method in study.methods
    } | {measure.protocol for measure in study.measures}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective_args.varience=2", "objective 'vicreg' has no setting varience; known: "),
        ("objective_args.variance=abc", "objective_args.variance is 'abc'; it must be a number"),
        ("backbone=resnet19", "'resnet19' is no timm model; did you mean "),
    ],
)
def test_wrong_settings_are_refused_as_in_training(setting: str, message: str, capsys):
    assert main(["pretrain", "folder", "--objective", "vicreg", "--set", setting, "--show"]) == 1
    assert message in capsys.readouterr().err


def test_the_declared_types_of_an_objective_s_settings_are_known():
    for name in objectives.known():
        assert objectives.hints(name).keys() == objectives.settings(name).keys()
        recipe = recipes.find("folder")
        dataclasses.replace(recipe, objective=name, objective_args=objectives.settings(name)).check_objective()
