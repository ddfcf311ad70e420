"""Runs of `distill`: resumed to the same bits, with the same teacher only, and the teacher on record."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from runs import assert_equal, exported, tiny
from star_training.engine.signals import Stopped
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run
from star_training.publishing import card
from star_zoo import save_pretrained
from twins import backbone


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    run = tmp_path / "somewhere" / "teacher-run"
    save_pretrained(run / "export", backbone())
    return run


def recipe(teacher: Path, *settings: str) -> Recipe:
    made = tiny("run.eval_every=0", "epochs=1").with_objective("distill")
    from star_training.settings.base import override

    return override(made, [f"objective_args.teacher={teacher}", "objective_args.beside=byol", *settings])


def stop_after(run: Run, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops as a signal does: the checkpoint of the step is written."""
    trained = run._train_step

    def one(batches: object) -> None:
        trained(batches)
        if run.step == step:
            monkeypatch.setattr(run, "_agreed", lambda signal: 15)

    monkeypatch.setattr(run, "_train_step", one)
    with pytest.raises(Stopped):
        run.train()
    monkeypatch.undo()


def test_a_resumed_run_is_the_whole_one_and_needs_the_same_teacher(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Run(recipe(teacher), tmp_path / "whole").train()
    stop_after(Run(recipe(teacher), tmp_path / "parted"), 2, monkeypatch)
    weights = teacher / "export" / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v + 1 for k, v in tensors.items()}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="the weights of the teacher teacher-run are not those that .* began with"):
        Run(recipe(teacher), tmp_path / "parted", resume=True)
    save_file(tensors, weights, {"format": "pt"})
    Run(recipe(teacher), tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))
    assert not any("teacher" in k or "target" in k or "map" in k for k in exported(tmp_path / "whole"))


def test_results_and_card_name_the_teacher_and_its_licence(teacher: Path, tmp_path: Path):
    config = json.loads((teacher / "export" / "config.json").read_text())
    config["pretrained_cfg"]["license"] = "mit"
    (teacher / "export" / "config.json").write_text(json.dumps(config))
    Run(recipe(teacher), tmp_path / "run").train()
    export = tmp_path / "run" / "export"
    record = json.loads((export / "results.json").read_text())["pretrained"]["teacher"]
    assert (record["name"], record["license"], len(record["fingerprint"])) == ("teacher-run", "mit", 16)
    assert f"The teacher `teacher-run` (weights `{record['fingerprint']}`) is published under mit." in card.render(
        export
    )
    for name in ("recipe.json", "results.json", "heads.json"):
        assert str(tmp_path) not in (export / name).read_text()
    assert json.loads((export / "recipe.json").read_text())["objective_args"]["teacher"] == "teacher-run"


def test_a_teacher_without_weights_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match="teacher 'test_nothing' can't be loaded: .*; pass a run") as refused:
        Run(recipe(Path("test_nothing")), tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
