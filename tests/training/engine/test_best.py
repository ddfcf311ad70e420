"""run.keep_best: the export of the best evaluation, which a killed and resumed run has too, to the same bits."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune_cases import coloured
from finetune_cases import tiny as tiny_tuning
from runs import EPOCH, EVALUATED, assert_equal, at_step, command, entries, tiny
from star_training.cli.main import main
from star_training.engine.logging import mean_loss
from star_training.engine.saving.best import Best
from star_training.engine.signals import Stopped
from star_training.finetuning.run import FineTuning
from star_training.models.resolve import called
from star_training.pretraining.online_eval import Monitor
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run

VALUES = (0.875, 0.25, 0.75, 0.5, 0.75, 0.25)  # untrained, and after each of five epochs
BEST = 2  # the first of the best


def recipe(metric: str, *settings: str) -> Recipe:
    """Five epochs, each with a checkpoint that is kept."""
    return tiny(
        "backbone_args.drop_rate=0.2",
        "epochs=5",
        f"run.checkpoint_every={EPOCH}",
        "run.keep=9",
        f"run.keep_best={metric}",
        EVALUATED,
        *settings,
    )


def scripted(patch: pytest.MonkeyPatch) -> None:
    """Gives evaluations their value by epoch."""
    original = Run.evaluate

    def evaluate(run: Run) -> None:
        patch.setattr(Monitor, "__call__", lambda monitor, backbone: {"r2": VALUES[run.step // EPOCH]})
        original(run)

    patch.setattr(Run, "evaluate", evaluate)


def weights(folder: Path) -> dict[str, Tensor]:
    return {
        f"{name}:{k}": v for name in ("model", "heads") for k, v in load_file(folder / f"{name}.safetensors").items()
    }


def best_of(out: Path) -> dict[str, object]:
    return json.loads((out / "export_best" / "results.json").read_text())["best"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch)
        Run(recipe("r2"), out).train()
    return out


def test_the_export_has_the_weights_of_the_best_evaluation(whole: Path):
    step = BEST * EPOCH
    assert best_of(whole) == {"metric": "r2", "value": 0.75, "step": step, "epoch": float(BEST)}
    then = load_file(whole / "checkpoints" / f"step-{step:09d}.safetensors")
    kept = load_file(whole / "export_best" / "model.safetensors")
    assert all(torch.equal(tensor, then[f"model.encoder.backbone.{name}"]) for name, tensor in kept.items())
    results = json.loads((whole / "export_best" / "results.json").read_text())
    assert results["training"]["steps"] == step and [e["step"] for e in results["online"]] == [0, step]
    assert called(str(whole / "export_best")) == "run-best" and called(str(whole)) == "run"


@pytest.mark.parametrize("amid", [False, True], ids=["after the write", "amid the write"])
def test_a_killed_run_ends_with_the_same_best(whole: Path, tmp_path: Path, monkeypatch, amid: bool):
    scripted(monkeypatch)
    step, save, offer = BEST * EPOCH, Run._save, Best.offer

    def save_a_part(run: Run, folder: Path, made: dict[str, object]) -> None:
        if run.step == step:
            (folder / "config.json").write_text("{")
            raise KeyboardInterrupt  # nothing else is written
        save(run, folder, made)

    def offer_and_die(best: Best, metrics: dict[str, float], at: int, epoch: float) -> str:
        kept = offer(best, metrics, at, epoch)
        if at == step:
            raise KeyboardInterrupt
        return kept

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="the newest checkpoint is step-"):
        patch.setattr(Run, "_save", save_a_part) if amid else patch.setattr(Best, "offer", offer_and_die)
        Run(recipe("r2"), tmp_path / "run").train()
    written = (tmp_path / "run" / "export_best" / "model.safetensors").stat().st_mtime_ns if not amid else None
    Run(recipe("r2"), tmp_path / "run", resume=True).train()
    assert_equal(weights(tmp_path / "run" / "export_best"), weights(whole / "export_best"))
    assert best_of(tmp_path / "run") == best_of(whole)
    if written:
        assert (tmp_path / "run" / "export_best" / "model.safetensors").stat().st_mtime_ns == written
    assert not list((tmp_path / "run").glob(".*.part"))


def test_the_loss_is_the_mean_since_the_evaluation_before(tmp_path: Path):
    Run(recipe("loss", "run.log_every=3", "run.eval_every=2"), tmp_path / "run").train()
    logged = entries(tmp_path / "run")
    steps = [e["step"] for e in logged]
    spent = [e["loss"] * (e["step"] - before) for e, before in zip(logged, [0, *steps], strict=False)]
    evaluated = [(0, 2 * EPOCH), (2 * EPOCH, 4 * EPOCH), (4 * EPOCH, 5 * EPOCH)]
    means = {
        end: sum(s for s, step in zip(spent, steps, strict=True) if start < step <= end) / (end - start)
        for start, end in evaluated
    }
    step = min(means, key=means.__getitem__)
    found = best_of(tmp_path / "run")
    assert (found["metric"], found["step"]) == ("loss", step) and found["value"] == pytest.approx(means[step])
    assert mean_loss(logged) == pytest.approx(sum(spent) / (5 * EPOCH))


def test_only_a_better_value_is_exported(tmp_path: Path):
    exported: list[int] = []

    def offer(metric: str, *values: float) -> list[int]:
        exported.clear()
        best = Best(metric, ["top1", "rankme"], tmp_path, export)
        for step, value in enumerate(values, start=1):
            best.offer({metric: value}, step, step / 2)
        return exported

    def export(folder: Path, facts: dict[str, Any]) -> None:
        exported.append(facts["step"])
        (folder / "results.json").write_text(json.dumps({"best": facts}))

    assert offer("top1", 0.25, 0.25, 0.5, 0.375, 0.5) == [1, 3]
    assert offer("top1", 0.375, 0.625) == [2]  # the folder of before has 0.5
    assert offer("rankme", 0.5, 0.125) == [1]  # of another metric it says nothing
    assert best_of(tmp_path) == {"metric": "rankme", "value": 0.5, "step": 1, "epoch": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["export_best"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("run.keep_best=knn20", EVALUATED),
            "run.keep_best is 'knn20'; this run measures r2, rankme, loss: pass one of them",
        ),
        (("run.keep_best=loss",), "run.keep_best is 'loss', but nothing is evaluated on the way"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(tmp_path: Path, capsys, settings: tuple[str, ...], message: str):
    assert main(command(tmp_path / "run", settings=settings)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_best_export_has_a_card_that_says_so_also_while_the_run_is_stopped(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, EPOCH + 1, lambda run: os.kill(os.getpid(), signal.SIGTERM))
        assert main(command(tmp_path / "run", settings=("run.keep_best=rankme", EVALUATED))) == 143
    card = (tmp_path / "run" / "export_best" / "README.md").read_text(encoding="utf-8")
    assert f"after step {EPOCH}, epoch 1, the best of the run by `rankme`: " in card
    assert main(["pretrain", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert "best of the run by `rankme`" in (tmp_path / "run" / "export_best" / "README.md").read_text()
    assert "best of the run" not in (tmp_path / "run" / "export" / "README.md").read_text(encoding="utf-8")


def test_fine_tuning_keeps_its_best_classifier(tmp_path: Path, monkeypatch):
    coloured(tmp_path / "images", 24, 12)
    settings = tiny_tuning(tmp_path / "images", "epochs=4", "optimizer.lr=0.05", "run.keep_best=top1")
    tuning = FineTuning(settings, tmp_path / "run")
    accuracy = iter([0.25, 0.75, 0.5, 0.75])
    original = tuning._accuracy
    seen: list[Tensor] = []

    def measured():
        seen.append(tuning.net.get_classifier().weight.detach().clone())
        return original()._replace(value=next(accuracy))

    monkeypatch.setattr(tuning, "_accuracy", measured)
    tuning.train()
    assert best_of(tmp_path / "run") == {"metric": "top1", "value": 0.75, "step": 6, "epoch": 2.0}
    kept = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export_best'}", pretrained=True)
    assert torch.equal(kept.get_classifier().weight, seen[1])
    (record,) = json.loads((tmp_path / "run" / "export_best" / "results.json").read_text())["evaluations"]
    assert record["metrics"]["finetune_top1"]["value"] == 0.75
    with pytest.raises(ValueError, match="run.keep_best is 'rankme'; this run measures top1, loss"):
        FineTuning(tiny_tuning(tmp_path / "images", "run.keep_best=rankme"), tmp_path / "other")
