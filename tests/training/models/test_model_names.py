"""What models are called in records: never by where they lie on this machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_cases import birds
from star_training import recipes
from star_training.cli import main as cli
from star_training.detection.recipe import DetectionData
from star_training.detection.recipes.coco import coco256
from star_training.models.resolve import called
from star_training.pretraining.recipe import Recipe
from star_zoo import save_pretrained
from twins import backbone


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with an export, in the folder that is the current one."""
    save_pretrained(tmp_path / "secret" / "mine" / "export", backbone())
    monkeypatch.chdir(tmp_path / "secret")
    return tmp_path / "secret" / "mine"


def test_a_folder_is_called_by_its_name_and_a_run_s_export_by_the_run_s(run: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("mine", "mine/", "./mine", "mine/export", str(run), f"local-dir:{run}", f"local-dir:{run}/export"):
        assert called(name) == "mine", name
    monkeypatch.chdir(run)
    assert called(".") == called("export") == "mine"


def test_other_names_are_as_they_are():
    for name in ("pixels", "resnet10t", "untrained:resnet10t", "star_resnet10t.cifar10", "hf-hub:me/mine", "timm:vit"):
        assert called(name) == name


def test_the_record_of_a_run_names_no_folder_of_this_machine(run: Path, capsys: pytest.CaptureFixture[str]):
    pack = birds(run.parent)
    assert cli.main(["eval", "knn", str(run), "--data", str(pack)]) == 0
    assert capsys.readouterr().out.startswith("mine on birds, knn")
    text = (run / "export" / "results.json").read_text()
    assert json.loads(text)["evaluations"][0]["model"] == "mine" and "secret" not in text
    recipe = recipes.find("cifar10_resnet10t").to_dict() | {"init_from": str(run / "export")}
    assert Recipe.from_dict(recipe).published()["init_from"] == "mine"
    data = DetectionData(source=str(pack))
    recipe = replace(coco256(str(run)), data=data).published()
    assert (recipe["model"], recipe["data"]["source"]) == ("mine", "birds.parquet")
