"""What models are called in records: never by where they lie on this machine."""

import json
from pathlib import Path

import pytest
from PIL import Image

from data_cases import encoded, write_parquet
from star_zoo import save_pretrained
from training import cli, recipes
from training.config import Recipe
from training.model_names import called
from twins import backbone, photos


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


def test_what_is_recorded_of_a_run_tells_no_folder_of_this_machine(run: Path, capsys: pytest.CaptureFixture[str]):
    pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in photos(30, 16, 16)]
    files = [encoded(picture, "PNG") for picture in pictures]
    split = ["train", "train", "test"] * 10
    pack = write_parquet(run.parent / "birds.parquet", image=files, label=[k % 2 for k in range(30)], split=split)
    assert cli.main(["eval", "knn", str(run), "--data", str(pack)]) == 0
    assert capsys.readouterr().out.startswith("mine on birds, knn")
    text = (run / "export" / "results.json").read_text()
    assert json.loads(text)["evaluations"][0]["model"] == "mine" and "secret" not in text
    recipe = recipes.cifar10_resnet10t().to_dict() | {"init_from": str(run / "export")}
    assert Recipe.from_dict(recipe).published()["init_from"] == "mine"
