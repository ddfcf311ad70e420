"""Losses, weights and features that are not finite end a run with the step, and nothing wrong is saved."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from runs import EPOCH, EVALUATED, EVERY, STEPS, assert_equal, at_step, command, exported, tiny
from star_training.cli.main import main
from star_training.engine.saving.checkpoint import Checkpoints
from star_training.errors import Diverged
from star_training.pretraining.module import Pretrainer
from star_training.pretraining.run import Run


def nan_from(monkeypatch, first: int, accumulate: int) -> None:
    """The loss is no number from step `first` on, in the last of its batches."""
    original, calls = Pretrainer.forward, [0]

    def forward(self: Pretrainer, *batch: Tensor) -> dict[str, Tensor]:
        terms = original(self, *batch)
        calls[0] += self.training
        return {k: v * math.nan for k, v in terms.items()} if calls[0] >= first * accumulate else terms

    monkeypatch.setattr(Pretrainer, "forward", forward)


@pytest.mark.parametrize(("accumulate", "log_every"), [(1, 1), (1, 10), (2, 1), (2, 10)])
def test_a_loss_that_is_no_number_ends_the_run_and_names_its_step(tmp_path, monkeypatch, accumulate, log_every):
    nan_from(monkeypatch, 5, accumulate)
    recipe = tiny(f"accumulate={accumulate}", f"batch_size={8 // accumulate}", f"run.log_every={log_every}")
    found = r"the loss is nan at step 5 \(its terms: invariant nan, equivariant nan\); the learning rate was [\d.e-]+; "
    with pytest.raises(Diverged, match=rf"{found}the last good checkpoint is .*step-000000003") as raised:
        Run(recipe, tmp_path).train()
    assert "optimizer.lr" in str(raised.value) and "\n" not in str(raised.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step-{EVERY:09d}.safetensors"]
    assert Checkpoints(tmp_path / "checkpoints", 1).newest().step == EVERY
    assert not (tmp_path / "export").exists()


def test_a_diverged_run_can_go_on_from_its_last_good_checkpoint(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Diverged):
        nan_from(patch, 5, 1)
        Run(tiny(), tmp_path / "run").train()
    Run(tiny(), tmp_path / "whole").train()
    Run(tiny(), tmp_path / "run", resume=True).train()
    assert_equal(exported(tmp_path / "run"), exported(tmp_path / "whole"))


def test_an_absurd_rate_ends_in_one_line(tmp_path: Path, capsys):
    assert main(command(tmp_path, settings=("optimizer.lr=1e30",))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("star-zoo: the loss is nan at step 2 (its terms: invariant nan, equivariant nan); ")
    assert "the learning rate was 0" not in line and "Try a lower optimizer.lr" in line
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("temperature", "cause"),
    [
        (
            0.3,
            "is nan at step 1 (its terms: invariant nan, equivariant nan), before any update, so the learning rate is",
        ),
        (1e-30, "; at step 1, before any update, it was "),
    ],
)
def test_a_wrong_loss_from_the_start_is_not_blamed_on_the_learning_rate(
    tmp_path: Path, monkeypatch, capsys, temperature: float, cause: str
):
    if temperature == 0.3:
        nan_from(monkeypatch, 1, 1)
    settings = (f"objective_args.temperature={temperature}", "optimizer.lr=1e10", "run.eval_every=0")
    settings = (*settings, "optimizer.name=sgd", "optimizer.clip=null")
    assert main(command(tmp_path, settings=settings)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert cause in line and "lower" not in line
    own = f"objective_args.num_experts=2, objective_args.hidden=16, {settings[0]}"
    assert line.endswith(f". Check the settings of the loss, {own}, and the images")


@pytest.mark.parametrize("step", [EVERY, EPOCH, STEPS])
def test_weights_that_a_finite_loss_broke_are_neither_saved_nor_exported(tmp_path: Path, monkeypatch, step: int):
    def spoil(run: Run) -> None:
        with torch.no_grad():
            run.pretrainer.objective.heads.router.linear.bias[0] = math.inf

    at_step(monkeypatch, step, spoil)
    with pytest.raises(Diverged, match=f"weights are not finite after step {step}"):
        Run(tiny(EVALUATED), tmp_path).train()
    saved = list((tmp_path / "checkpoints").glob("*")) if (tmp_path / "checkpoints").exists() else []
    assert all(int(path.stem.removeprefix("step-")) < step for path in saved)
    assert not (tmp_path / "export").exists()


def test_features_that_are_not_finite_end_the_run_with_its_step(tmp_path: Path, monkeypatch):
    def spoil(run: Run) -> None:
        run.pretrainer.backbone.bn1.running_var.fill_(-1)  # finite itself, and unused in training

    at_step(monkeypatch, EPOCH, spoil)
    with pytest.raises(
        Diverged, match=f"have features that are not finite after step {EPOCH}; the learning rate was .*; the last good"
    ):
        Run(tiny(EVALUATED), tmp_path).train()
