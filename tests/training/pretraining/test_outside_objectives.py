"""Objectives from outside the package, by dotted path: trained, killed, resumed, exported, published and evaluated.

So is MoCo, for its queue and its momentum copies.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import star_zoo
from loopback_client import client
from loopback_hub import LoopbackHub
from runs import PACKAGES, assert_equal, entries, exported, finish, pictures, start
from star_zoo import objectives

TESTS = str(Path(__file__).parents[2] / "support")
NAMES = {"outside.simsiam": "SimSiam", "outside.teacher": "Teacher", "moco": "MoCo"}
KEPT_BACK = {
    "outside.simsiam": set(),
    "outside.teacher": {"teacher"},
    "moco": {"target_encoder", "target_heads", "agree"},
}
SETTINGS = (
    "backbone=test_resnet", "policy.augmentations.0.size=32", "batch_size=8", "epochs=4", "run.workers=0",
    "run.log_every=1", "run.checkpoint_every=2", "optimizer.lr=0.5", "backbone_args.drop_rate=0.1",
    "precision=no",
)  # fmt: skip
COMMAND = """
import sys
sys.path.append(sys.argv.pop(1))
from star_training.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
EVALUATE = """
import sys
from pathlib import Path
import star_zoo
from star_training.cli.main import main
tests, name, data, out = sys.argv[1:]
sys.path.append(tests)
objective = star_zoo.load_objective(name)
print(type(objective).__name__, sorted(objective.state_dict())[0])
for words in (["eval", "knn", name, "--data", data, "--out", out], ["card", name]):
    if words[0] == "eval" or not name.startswith("hf-hub:"):
        assert main(words) == 0, words
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find the package `outside` on PYTHONPATH, as a user's own would be."""
    monkeypatch.setattr("runs.PACKAGES", os.pathsep.join((PACKAGES, TESTS)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 32), ("test", 24)):
        pictures(folder / split, count)
    return folder


def words(name: str, photos: Path, out: Path, *more: str) -> list[str]:
    made = ["pretrain", "folder", "--objective", name, "--data", str(photos), "--out", str(out), *more]
    for setting in SETTINGS:
        made += ["--set", setting]
    return made


def killed_after_a_checkpoint(arguments: list[str], out: Path) -> None:
    """Begins a run and kills it as soon as its second checkpoint is there."""
    process = start(arguments)
    deadline = time.monotonic() + 120
    while len(list(out.glob("checkpoints/step-*.safetensors"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_objective_goes_the_whole_way(name: str, photos: Path, tmp_path: Path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    code, _, err = finish(start(words(name, photos, whole)))
    assert code == 0, err
    killed_after_a_checkpoint(words(name, photos, parted), parted)
    code, _, err = finish(start(words(name, photos, parted, "--resume")))
    assert code == 0, err
    assert_equal(exported(parted), exported(whole))
    assert [e["loss"] for e in entries(parted)] == [e["loss"] for e in entries(whole)]
    state, other = (load_file(out / "checkpoints/step-000000016.safetensors") for out in (parted, whole))
    assert_equal(state, other)
    resumed = {k.split(".")[2] for k in state if k.startswith("model.objective.")}
    published = {k.removeprefix("heads:").split(".")[0] for k in exported(parted) if k.startswith("heads:")}
    assert resumed - published == KEPT_BACK[name]
    assert entries(parted, "knn1_top1")  # evaluated online

    with LoopbackHub() as hub:
        client(hub, tmp_path / "home", COMMAND, TESTS, "publish", str(parted), "me/outside")
        for model in (str(parted / "export"), "hf-hub:me/outside"):
            records = tmp_path / f"{'hub' if ':' in model else 'run'}.json"
            done = client(hub, tmp_path / "home", EVALUATE, TESTS, model, str(photos), str(records))
            assert done.stdout.startswith(NAMES[name])
            assert json.loads(records.read_text())["evaluations"][0]["protocol"] == "knn"


def test_a_module_must_be_importable_and_define_one_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nobodys").mkdir()
    (tmp_path / "nobodys" / "empty.py").write_text("from star_zoo import Objective\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"'nobodys.empty' defines none; the module must define one subclass"):
        objectives.find("nobodys.empty")
    with pytest.raises(ValueError, match=r"'nobodys.gone' can't be imported: No module named .* to PYTHONPATH"):
        objectives.find("nobodys.gone")


def test_a_momentum_copy_is_independent_and_left_to_the_objective():
    from star_training import recipes
    from star_training.engine.optim import build_optimizer
    from star_training.pretraining.module import build
    from star_training.settings.base import override

    recipe = override(recipes.find("folder").with_objective("outside.teacher"), list(SETTINGS))
    module, _ = build(recipe)
    teacher, encoder = module.objective.teacher, module.encoder
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), encoder.parameters(), strict=True))
    trained = {id(p) for group in build_optimizer(recipe.optimizer, module).param_groups for p in group["params"]}
    assert not trained & {id(p) for p in teacher.parameters()}
    assert trained == {id(p) for p in module.parameters() if p.requires_grad}
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
        module.objective.after_step(encoder, 0.5)
    before, now = next(teacher.parameters()), next(encoder.parameters())
    torch.testing.assert_close(before, now - 1 + 0.05)  # the momentum is 0.95 half way
    images = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    twin = {k: v.clone() for k, v in encoder.state_dict().items()}
    teacher.train()(images)  # batch norms of the copy count its own batches
    assert all(torch.equal(v, twin[k]) for k, v in encoder.state_dict().items())
    assert not torch.equal(teacher.module.backbone.bn1.running_mean, encoder.backbone.bn1.running_mean)
    assert star_zoo.Encoder is type(teacher.module)
