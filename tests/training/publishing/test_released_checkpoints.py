"""The authors' checkpoints: at equal weights and inputs our modules compute what theirs do, and the way back is exact.

Their modules are stated here anew from the paper: separate MLPs in a list, a gating layer for each task.
"""

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

import star_zoo
from disk import files_end_at
from released_twin import D, Theirs
from star_training import recipes
from star_training.cli.main import main
from star_training.publishing.convert import convert, convert_back
from star_zoo import released
from twins import randn

BATCH = 4


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    torch.manual_seed(0)
    model = Theirs()
    with torch.no_grad():  # running statistics and norms that a mistake would show in
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif "running_mean" in name:
                tensor.normal_(std=0.1)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model


@pytest.fixture(scope="module")
def converted(theirs: Theirs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    convert(theirs.checkpoint(folder / "ckpt-200.pth"), recipes.find("stl10_resnet18"), folder / "ours")
    return folder / "ours"


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(converted: Path, tmp_path: Path, capsys):
    checkpoint = str(converted.parent / "ckpt-200.pth")
    for words in (
        ["convert", checkpoint, "--recipe", "stl10_resnet18", "--out", str(tmp_path / "ours")],
        ["convert", str(converted), "--to-released", str(tmp_path / "theirs.pth")],
    ):
        with files_end_at(100_000):
            assert main(words) == 1
        error = capsys.readouterr().err
        assert error.startswith("star-zoo: ") and error.count("\n") == 1, error
        assert "File too large" in error and (words[-1] in error)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def params() -> list[Tensor]:
    policy, g = released.policy("stl10"), torch.Generator().manual_seed(0)
    base = torch.stack([policy.base(96, 96)] * BATCH)
    return [base, *(torch.stack([policy.draw(96, 96, g) for _ in range(BATCH)]) for _ in range(2))]


@pytest.mark.parametrize("training", [False, True])
def test_features_embeddings_and_predictions_are_theirs(theirs: Theirs, converted: Path, training: bool) -> None:
    backbone = timm.create_model(f"local-dir:{converted}", pretrained=True).train(training)
    objective = star_zoo.load_objective(converted).train(training)
    twin = theirs.train(training)
    state = {k: v.clone() for k, v in twin.state_dict().items()}
    with torch.no_grad():
        features = twin.backbone(randn(BATCH, 3, 96, 96))
        assert_close(backbone(randn(BATCH, 3, 96, 96)), features, rtol=1e-5, atol=1e-5)
        ours, expected = objective.heads(features), twin.embed(features)
        assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        raw = params()[1]
        prediction = objective.shift_predictor(expected[1], raw)
        assert_close(prediction, twin.predict(expected[1], raw), rtol=1e-5, atol=1e-5)
    twin.load_state_dict(state)  # training mode moved its running statistics


def test_loss_terms_and_gradients_are_theirs(theirs: Theirs, converted: Path) -> None:
    objective = star_zoo.load_objective(converted).eval()
    features = [randn(BATCH, D, seed=v).requires_grad_() for v in range(3)]
    theirs.eval()
    ours, expected = objective.terms(features, params()), theirs.terms(features, params())
    assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    for name in ours:
        assert_close(
            torch.autograd.grad(ours[name], features, retain_graph=True, materialize_grads=True),
            torch.autograd.grad(expected[name], features, retain_graph=True, materialize_grads=True),
            rtol=1e-4,
            atol=1e-6,
        )


def test_names_that_ddp_lengthened_mean_the_same(theirs: Theirs, converted: Path, tmp_path: Path) -> None:
    convert(theirs.checkpoint(tmp_path / "ddp.pth", ddp=True), recipes.find("stl10_resnet18"), tmp_path / "ours")
    for name in ("model.safetensors", "heads.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (converted / name).read_bytes()


def test_there_and_back_is_exact(theirs: Theirs, converted: Path, tmp_path: Path) -> None:
    convert_back(converted, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    for group, child in theirs.named_children():
        expected = child.state_dict()
        assert back[group].keys() == expected.keys()
        assert all(torch.equal(back[group][name], tensor) for name, tensor in expected.items()), group
    convert(tmp_path / "back.pth", recipes.find("stl10_resnet18"), tmp_path / "again")
    first, second = (load_file(folder / "heads.safetensors") for folder in (converted, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["projectors"].pop("1.3.weight"), "lacks the tensor 'projectors 1.3.weight'"),
        (lambda c: c["eq_predictor"].pop("3.weight"), "does not fit the recipe"),
        (lambda c: c["gatingnetwork"].update(extra=torch.zeros(1)), "unknown tensors: gatingnetwork extra"),
        (lambda c: c["backbone"].pop("conv1.weight"), "does not fit the recipe"),
        (lambda c: c.pop("p_projector"), "lacks p_projector"),
    ],
)
def test_missing_and_unknown_tensors_are_named(theirs: Theirs, tmp_path: Path, change, message: str) -> None:
    path = theirs.checkpoint(tmp_path / "ckpt.pth")
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=message):
        convert(path, recipes.find("stl10_resnet18"), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


class Trap:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"backbone": Trap()}, "trap.pth")
    assert main(["convert", "trap.pth", "--recipe", "stl10_resnet18", "--out", "ours"]) == 1
    assert not Path("executed").exists() and not Path("ours").exists()
    error = capsys.readouterr().err
    reason = "it holds objects other than tensors, which star-zoo doesn't unpickle"
    assert error == f"star-zoo: trap.pth is not a checkpoint that can be read safely: {reason}\n"


def test_a_recipe_is_needed(tmp_path: Path, capsys) -> None:
    assert main(["convert", str(tmp_path / "x.pth"), "--out", str(tmp_path / "ours")]) == 1
    assert "pass --recipe" in capsys.readouterr().err
