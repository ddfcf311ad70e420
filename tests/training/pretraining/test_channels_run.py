"""A pretraining on grey images of 16 bits, from the recipe to fine-tuning its export; four channels on the way."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import star_zoo
from runs import TINY
from star_training.cli.main import main
from star_training.data.eval_sets.dataset import Splits
from star_training.evaluation.frozen_model import load
from star_training.models.create import create, input_channels

SETTINGS = (
    *(setting for setting in TINY if not setting.startswith("data.")),
    "policy.augmentations.0.size=32", "backbone_args.in_chans=1", "epochs=2", "data.hold_out=0", "run.eval_every=0",
)  # fmt: skip
TUNED = ("epochs=1", "batch_size=8", "precision=no", "run.workers=0")


def pictures(folder: Path) -> Path:
    """Grey images of 16 bits in two classes, of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for k in range(count):
            pixels = rng.normal(20_000 + 20_000 * (k % 2), 4_000, (32, 32)).clip(0, 65_535).astype(np.uint16)
            path = folder / split / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def arrays(folder: Path, channels: int) -> Path:
    """The same of arrays, whose channels have means of their own."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for k in range(count):
            pixels = rng.normal(20_000 + 20_000 * (k % 2), 4_000, (32, 32, channels)) + 2_000 * np.arange(channels)
            path = folder / split / "ab"[k % 2] / f"{k}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, pixels.clip(0, 65_535).astype(np.uint16))
    return folder


def command(data: Path, out: Path, *changes: str) -> list[str]:
    sets = [part for setting in (*SETTINGS, *changes) for part in ("--set", setting)]
    return ["pretrain", "folder", "--data", str(data), "--out", str(out), *sets]


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the images, and with the run that was trained on them."""
    folder = tmp_path_factory.mktemp("grey")
    assert main(command(pictures(folder / "images"), folder / "run")) == 0
    return folder


def test_the_export_says_what_it_takes(grey: Path):
    images = [np.asarray(Image.open(path)) for path in sorted((grey / "images/train").rglob("*.png"))]
    mean, std = np.mean(images) / 65535, np.std(images) / 65535
    export = grey / "run/export"
    config = json.loads((export / "config.json").read_text())["pretrained_cfg"]
    assert config["input_size"] == [1, 32, 32]
    assert config["mean"] == pytest.approx([mean], abs=5e-5) and config["std"] == pytest.approx([std], abs=5e-5)
    recipe = json.loads((grey / "run/recipe.json").read_text())["policy"]
    assert (recipe["mean"], recipe["std"]) == (config["mean"], config["std"])  # as numbers, for a resume
    assert [a["name"] for a in recipe["augmentations"]] == ["Crop", "Flip", "ColorJitter", "Blur"]
    model = timm.create_model(f"local-dir:{export}", pretrained=True)
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, model.num_features)
    assert star_zoo.load_objective(export).policy.channels == 1


def test_a_resume_asks_for_auto_and_keeps_the_numbers(grey: Path, capsys):
    assert main([*command(grey / "images", grey / "run"), "--resume"]) == 0
    assert "nothing was left to do" in capsys.readouterr().out


def test_evaluation_reads_grey_images_at_full_depth(grey: Path):
    assert main(["eval", "knn", str(grey / "run"), "--data", str(grey / "images")]) == 0
    model, images = load(str(grey / "run")), Splits(str(grey / "images"), channels=1).test
    pixels = np.asarray(Image.open(sorted((grey / "images/val").rglob("*.png"))[0])).astype(np.float32) / 65_535
    (mean,), (std,) = (getattr(star_zoo.load_objective(grey / "run/export").policy, name) for name in ("mean", "std"))
    expected = (torch.from_numpy(pixels) - mean) / std
    torch.testing.assert_close(model.preprocess([images[0]])[0, 0], expected)


def test_a_fine_tuning_of_the_export_reads_grey_images(grey: Path):
    out = grey / "tuned"
    sets = [x for s in (*TUNED, "views.jitter=0.4") for x in ("--set", s)]
    assert main(["finetune", str(grey / "run"), "--data", str(grey / "images"), "--out", str(out), *sets]) == 0
    config = json.loads((out / "export/config.json").read_text())
    assert config["pretrained_cfg"]["input_size"][0] == 1 and config["num_classes"] == 2


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_any_number_of_channels_goes_from_pretraining_to_fine_tuning(channels: int, tmp_path: Path, capsys):
    """Mean and standard deviation are those of the images, which is asked for where there are three."""
    data, run, tuned = arrays(tmp_path / "images", channels), tmp_path / "run", tmp_path / "tuned"
    auto = ("policy.mean=auto", "policy.std=auto") if channels == 3 else ()
    changes = (f"backbone_args.in_chans={channels}", "policy=ventral", "policy.augmentations.0.size=32", *auto)
    assert main(command(data, run, *changes, "epochs=1")) == 0
    pixels = np.stack([np.load(path) for path in sorted((data / "train").rglob("*.npy"))]) / 65_535
    config = json.loads((run / "export/config.json").read_text())["pretrained_cfg"]
    assert config["input_size"] == [channels, 32, 32]
    assert config["mean"] == pytest.approx(pixels.mean((0, 1, 2)), abs=5e-5)
    assert config["std"] == pytest.approx(pixels.std((0, 1, 2)), abs=5e-5)
    assert main(["eval", "knn", str(run), "--data", str(data)]) == 0
    assert "1-NN top-1, %  100.0" in capsys.readouterr().out
    if channels == 5:  # which takes most of the time
        sets = [x for s in TUNED for x in ("--set", s)]
        assert main(["finetune", str(run), "--data", str(data), "--out", str(tuned), *sets]) == 0
        classifier = timm.create_model(f"local-dir:{tuned / 'export'}", pretrained=True).eval()
        assert classifier(torch.zeros(2, channels, 32, 32)).shape == (2, 2)


def test_other_channels_start_from_colour_weights_as_timm_adapts_them(grey: Path, tmp_path: Path):
    assert input_channels(str(grey / "run")) == 1 and input_channels("test_resnet") == 3
    assert input_channels("concat:test_resnet+test_resnet") == 3
    adapted = create("untrained:test_resnet", in_chans=1)
    assert adapted.pretrained_cfg["input_size"][0] == 1
    assert adapted.pretrained_cfg["mean"] == pytest.approx(
        [sum(timm.create_model("test_resnet").pretrained_cfg["mean"]) / 3]
    )


def test_colour_operations_on_four_channels_are_refused_before_anything_is_written(grey: Path, capsys):
    out = grey / "four"
    assert main(command(grey / "images", out, "backbone_args.in_chans=4")) == 1
    assert "--set policy.augmentations-=Grayscale" in capsys.readouterr().err and not out.exists()
    changes = "backbone_args.in_chans=4", "policy=ventral", "policy.augmentations.0.size=32"
    assert main(command(grey / "images", out, *changes)) == 1
    assert "number of channels: 1, but the model takes 4" in capsys.readouterr().err and not out.exists()
