"""Wrappers through the commands."""

import json
from pathlib import Path

import pytest
import timm
import torch

from data_cases import birds
from star_training.cli.main import main
from star_training.evaluation.frozen_model import FrozenModel, load
from star_training.models.create import create
from star_training.models.resolve import saved_objective
from star_zoo import Policy, objectives, save_pretrained, wrappers
from star_zoo.augmentations import Crop
from twins import MEAN, STD, sized

S = 32


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with an export and its heads, in the folder that is the current one."""
    model, policy = sized(), Policy((Crop(S),), MEAN, STD)
    saved = objectives.build("simclr", model.num_features, policy, hidden=8)
    save_pretrained(tmp_path / "secret" / "mine" / "export", model, saved)
    monkeypatch.chdir(tmp_path / "secret")
    return tmp_path / "secret" / "mine"


def test_an_averaged_model_keeps_its_objective_and_several_have_none(run: Path):
    one, averaged = load(str(run)), load(f"averaged(2):{run}")
    assert averaged.objective is not None and averaged.policy == one.policy == averaged.backbone.policy
    assert saved_objective(f"concat:{run}+{run}") is None and saved_objective(f"untrained:{run}") is None


def test_heads_replace_the_objective_and_keep_its_policy(run: Path):
    one, heads = load(str(run)), load(f"heads:{run}")
    assert heads.objective is None and heads.policy == one.policy == load(f"averaged:heads:{run}").policy
    assert heads.backbone.num_features == 128 and heads.fingerprint != one.fingerprint
    assert load(f"heads(space=z_inv):averaged(2):{run}").backbone.num_features == 128
    with pytest.raises(ValueError, match="saved with its heads; this one has none"):
        load("heads:untrained:test_resnet")


def test_features_are_kept_by_wrapper_settings_and_policy(run: Path):
    prefixes = ("", "averaged:", "averaged(2):", f"concat:{run}+")
    marks = [load(f"{prefix}{run}").fingerprint for prefix in prefixes]
    other = wrappers.build("averaged", [sized()], Policy((Crop(S, scale=(0.5, 1.0)),), MEAN, STD))
    changed = FrozenModel("changed", other, load(f"averaged:{run}").preprocess)
    assert len({*marks, changed.fingerprint}) == 5 and load(f"averaged(8):{run}").fingerprint == marks[1]


def test_two_untrained_models_in_a_wrapper_differ_and_depend_on_the_seed():
    first, second = create("concat:untrained:test_resnet+untrained:test_resnet", seed=3).backbones
    assert torch.equal(first.conv1[0].weight, create("untrained:test_resnet", seed=3).conv1[0].weight)
    assert not torch.equal(first.conv1[0].weight, second.conv1[0].weight)


def test_wrappers_are_evaluated_and_compared_by_their_whole_names(run: Path, capsys: pytest.CaptureFixture[str]):
    pack, out = str(birds(run.parent)), str(run.parent / "results.json")
    averaged, both = f"averaged(2):{run}", f"concat:{run}/export+untrained:test_resnet"
    assert main(["eval", "knn", averaged, "--data", pack, "--out", out]) == 0
    assert main(["compare", averaged, both, "--data", pack, "--protocol", "knn", "--out", out]) == 0
    text = Path(out).read_text()
    written = json.loads(text)
    assert written["evaluations"][0]["model"] == written["comparisons"][0]["model"] == "averaged(views=2):mine"
    assert written["comparisons"][0]["other"] == "concat:mine+untrained:test_resnet" and "secret" not in text
    assert main(["report", out, "--out", str(run / "report.html")]) == 0
    assert "averaged(views=2):mine" in (run / "report.html").read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["publish", "MODEL", "me/mine", "--dry-run"], "only a saved folder can be published"),
        (["install", "MODEL", "star_test_resnet.mine"], "only a saved folder can be published"),
        (["card", "MODEL"], "only a saved folder can be published"),
        (["report", "MODEL"], "only a saved folder can be published"),
        (["pretrain", "spirograph_tiny", "--init-from", "MODEL", "--out", "out"], "weights of a single model"),
    ],
)
def test_commands_that_need_a_single_model_refuse_wrappers_in_one_line(command, message: str, run: Path, capsys):
    words = [f"averaged:{run}" if word == "MODEL" else word for word in command]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert f"'averaged:{run}' is a wrapper; " in error and message in error and error.count("\n") == 1


def test_a_fine_tuned_fusion_is_one_model_in_every_command(run: Path, tmp_path: Path, capsys):
    out, data = str(tmp_path / "tuned"), str(birds(tmp_path / "birds"))
    words = ["--data", data, "--out", out, "--set", "epochs=1", "--set", "batch_size=2", "--set", "views.size=32"]
    words += ["--set", "precision=no", "--set", "run.workers=0"]
    assert main(["finetune", f"concat:{run}+averaged(views=2):untrained:test_resnet", *words]) == 0
    tuned = timm.create_model(f"local-dir:{out}/export", pretrained=True)
    assert tuned.num_features == 2 * sized().num_features and tuned.num_classes == 4
    assert main(["eval", "knn", out, "--data", data, "--out", str(tmp_path / "results.json")]) == 0
    assert main(["card", out]) == 0
    text = (Path(out) / "export" / "README.md").read_text()
    assert "star-zoo's concat of timm's test_resnet and star-zoo's averaged of timm's test_resnet" in text
    assert main(["finetune", f"heads:{run}", *words[:2], *words[4:], "--out", str(tmp_path / "heads")]) == 1
    assert "\nstar-zoo: heads: computes with an objective" in capsys.readouterr().err
