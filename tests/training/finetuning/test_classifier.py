"""An exported classifier: what timm, transformers and its card know of its classes, its start and its training."""

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

from finetune_cases import COLOURS, coloured, tiny
from markdown_cases import blocks
from star_training.cli.execute import parser
from star_training.cli.train.finetune import settings_of
from star_training.finetuning.run import FineTuning
from star_training.publishing import card
from star_zoo import install, save_pretrained, star_backbones

THEIRS = {"license": "cc-by-nc-4.0", "tag": "a1_in1k", "description": "theirs", "origin_url": "https://theirs"}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a start whose licence is stated, and the fine-tuning in out/."""
    where = tmp_path_factory.mktemp("classifier")
    coloured(where / "images", 24, 12)
    torch.manual_seed(3)
    sizes = {"input_size": (3, 32, 32), "crop_pct": 1.0}
    start = timm.create_model("test_resnet", num_classes=7, pretrained_cfg_overlay=sizes | THEIRS)
    start.pretrained_cfg |= {"label_names": list("abcdefg")}
    save_pretrained(where / "start", start)
    made = tiny(where / "images", "epochs=4", "optimizer.lr=0.1", "ema=0.5", model=str(where / "start"))
    FineTuning(made, where / "out").train()
    return where


def read(where: Path, file: str) -> dict[str, Any]:
    return json.loads((where / "out" / "export" / file).read_text())


def test_the_config_holds_the_classes_and_nothing_of_the_starts_weights(where: Path):
    config = read(where, "config.json")
    assert config["label_names"] == sorted(COLOURS) and config["num_classes"] == 3
    assert "label_names" not in config["pretrained_cfg"] and not THEIRS.keys() & config["pretrained_cfg"].keys()
    assert json.loads((where / "start" / "config.json").read_text())["label_names"] == list("abcdefg")
    backbone = timm.create_model(f"local-dir:{where / 'out' / 'export'}", pretrained=True, num_classes=0)
    save_pretrained(where / "backbone", backbone)  # which names no classes
    assert "label_names" not in (where / "backbone" / "config.json").read_text()


def test_transformers_says_the_class_that_timm_says(where: Path):
    pipeline = pytest.importorskip("transformers").pipeline
    with torch.no_grad():
        classify = pipeline("image-classification", model=str(where / "out" / "export"))
        model = timm.create_model(f"local-dir:{where / 'out' / 'export'}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        for path in sorted((where / "images/test").rglob("*.png"))[::5]:
            image = Image.open(path)
            found = {entry["label"]: entry["score"] for entry in classify(image)}
            scores = model(transform(image)[None]).softmax(1)[0].tolist()
            assert found == pytest.approx(dict(zip(sorted(COLOURS), scores, strict=True)), abs=1e-5)


def test_the_card_is_that_of_a_classifier(where: Path):
    text = card.render(where / "out" / "export", "hf-hub:me/colours")
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.license) == ("image-classification", "other")
    assert set(data.tags) == {"image-classification", "timm", "transformers", "star-zoo"}
    assert {r.task_type for r in data.eval_results} == {"image-classification"}
    assert (
        "# Model card for colours\n\ntimm's test_resnet, a classifier of 3 classes, fine-tuned on `images`.\n" in text
    )
    assert "- **Classes:** blue, green, red\n" in text
    start = read(where, "results.json")["pretrained"]["start"]
    assert start["name"] == "start" and start["license"] == "cc-by-nc-4.0"
    assert (
        "These weights have no licence. Training started from `start` (weights "
        f"`{start['fingerprint']}`), which is published under cc-by-nc-4.0. The fine-tuning images are `images`."
        in text
    )
    assert "Not recorded" not in text and "backbone\n" not in text and "pretrained without labels" not in text
    assert "144 images in 12 steps" not in text and "96 images in 12 steps, " in text
    assert (
        card.render(where / "out" / "export").split("# Model card for ")[1].startswith("test_resnet-images-classifier")
    )


def test_the_command_of_the_card_has_the_settings_of_the_run(where: Path):
    (command,) = (b for b in blocks(card.render(where / "out" / "export"), "bash") if "finetune" in b)
    found = settings_of(parser().parse_args(shlex.split(command)[1:])).to_dict()
    saved = read(where, "finetune.json")
    assert found | {"run": None} == saved | {"run": None}
    assert saved["ema"] == 0.5 and saved["model"] == "start" and str(where) not in json.dumps(saved)


def test_the_snippet_of_the_card_prints_the_names_of_classes(where: Path, capsys: pytest.CaptureFixture[str]):
    for snippet in blocks(card.render(where / "out" / "export"), "python"):
        exec(compile(ast.parse(snippet), "<card>", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert sorted(line.partition(":")[0] for line in printed) == sorted(COLOURS)
    assert sum(float(line.partition(": ")[2].rstrip("%")) for line in printed) == pytest.approx(100, abs=0.2)


def test_an_installed_classifier_keeps_its_names(where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path))
    folder = install(where / "out" / "export", "star_test_resnet.colours")
    assert (folder / "finetune.json").is_file()
    cfg, _ = star_backbones.read_config(folder / "config.json", "star_test_resnet.colours")
    assert list(cfg.label_names) == sorted(COLOURS)


def test_a_chain_of_fine_tunings_is_described_from_its_first(where: Path):
    made = tiny(where / "images", "epochs=1", "seed=4", model=str(where / "out"))
    FineTuning(made, where / "next").train()
    text = card.render(where / "next" / "export").partition("## Training")[2]
    assert text.index("Fine-tuned from `start`: 4 epochs") < text.index("Fine-tuned from `out`: 1 epoch,")
    assert "`results.json` has all settings." in text and "`finetune.json` has all settings." in text
