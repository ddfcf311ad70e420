"""Exported folders, of which cards say more or less."""

import json
from pathlib import Path

import pytest
import timm
import torch

from markdown_cases import RECORD
from released_twin import Theirs
from runs import EVALUATED, tiny
from star_training import recipes
from star_training.pretraining.run import Run
from star_training.publishing import card
from star_training.publishing.convert import convert
from star_zoo import objectives, save_pretrained
from twins import POLICY, backbone


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a run, with an evaluation on record and a figure."""
    out = tmp_path_factory.mktemp("finished")
    Run(tiny("epochs=1", EVALUATED), out).train()
    folder = out / "export"
    card.write(folder)
    results = json.loads((folder / "results.json").read_text())
    results["training"]["seconds"] = 4321.5  # of a run that takes longer
    (folder / "results.json").write_text(json.dumps(results | {"evaluations": [RECORD]}))
    (folder / "nearest_neighbours.png").touch()
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released checkpoint of the authors in our layout."""
    where = tmp_path_factory.mktemp("converted")
    torch.manual_seed(0)
    convert(Theirs().checkpoint(where / "ckpt-200.pth"), recipes.find("stl10_resnet18"), where / "ours")
    return where / "ours"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of which less is known."""
    where, model = tmp_path_factory.mktemp("others"), backbone()
    save_pretrained(where / "bare", model)
    save_pretrained(where / "pairs", model, objectives.build("simclr", model.num_features, POLICY))
    save_pretrained(where / "classifier", timm.create_model("test_resnet", num_classes=7))
    save_pretrained(where / "photos", model, recipe=tiny("data.source=pictures/cats@v2").to_dict())
    return {path.name: path for path in where.iterdir()}
