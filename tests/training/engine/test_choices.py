"""What a run chooses where its settings are "auto": the bits of the same value given, kept on resume, one for all."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from finetune_cases import coloured
from finetune_cases import tiny as tiny_finetuning
from runs import NOISY, TWO, assert_equal, command, exported, finish, start, stopped_at, tiny, tiny_with
from star_catalog.files import write_json
from star_training import studies
from star_training.data import workers
from star_training.engine.saving.checkpoint import Checkpoints
from star_training.finetuning.config import FineTune
from star_training.finetuning.run import FineTuning
from star_training.numerics import choice, layout, precision, processor
from star_training.numerics.choice import Choice
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run
from star_training.settings.base import override
from star_zoo import objectives

AUTO = "precision=auto"
QUIET = (*NOISY, "channels_last=false", "policy.augmentations.0.size=16", "run.eval_every=0", "epochs=1")
FAST = (*QUIET, "backbone=test_vit")  # without convolutions, which are slow in emulated bfloat16


@pytest.fixture
def wins(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU that lists bfloat16, on which its trial is real and always won."""
    monkeypatch.setattr(processor, "has_bf16", lambda: True)
    monkeypatch.setattr(choice, "_MARGIN", 0.0)
    return monkeypatch


@pytest.fixture
def won(wins: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU whose trial bfloat16 has won, without the time that it takes."""
    wins.setattr(choice, "tried", lambda *given: Choice("bf16", "12.3 images/s against 9.8 in float32"))
    return wins


def no_trial(*given: Any) -> None:
    raise AssertionError("a trial was made")


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the machine has no bfloat16, and nothing may be tried."""
    monkeypatch.setattr(processor, "has_bf16", lambda: False)
    monkeypatch.setattr(choice, "tried", no_trial)


def state(out: Path) -> dict[str, Any]:
    """The JSON of the newest checkpoint."""
    with safe_open(max((out / "checkpoints").glob("*.safetensors")), framework="pt") as file:
        return json.loads(file.metadata()["checkpoint"])["state"]


def of_checkpoint(out: Path) -> dict[str, torch.Tensor]:
    """Everything that the newest checkpoint holds: weights, optimiser, queues, random states."""
    with safe_open(max((out / "checkpoints").glob("*.safetensors")), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", objectives.known())
def test_the_batch_that_a_precision_is_checked_on_is_large_enough(name: str, monkeypatch, tmp_path: Path):
    losses = []

    def check(module: nn.Module, loss: Callable[[], torch.Tensor], kind: str) -> None:
        module.train()
        with torch.no_grad(), torch.autocast("cpu", precision.DTYPES[kind]):
            losses.append(loss())

    monkeypatch.setattr(precision, "check", check)  # its comparison of layers takes longer, and has tests of its own
    monkeypatch.setattr(Run, "try_export", lambda run: None)  # so has this
    run = Run(tiny_with(name, "policy.augmentations.0.size=16", "precision=bf16"), tmp_path)  # maps of 1x1
    run.logbook.close()
    assert len(losses) == 1 and losses[0].isfinite()


def test_an_objective_that_needs_many_images_has_a_trial(wins: pytest.MonkeyPatch, tmp_path: Path):
    run = Run(tiny_with("ser", *QUIET, "batch_size=8", AUTO), tmp_path)
    run.logbook.close()
    assert run.recipe.precision == "bf16"


@pytest.mark.parametrize(("margin", "used"), [(0.0, "bf16"), (math.inf, "no")])
def test_a_run_has_the_bits_of_the_precision_it_chose(
    margin: float, used: str, wins: pytest.MonkeyPatch, tmp_path: Path
):
    wins.setattr(choice, "_MARGIN", margin)
    Run(tiny_with("moco", *QUIET, AUTO), tmp_path / "auto").train()
    with wins.context() as patch:
        elsewhere(patch)
        Run(tiny_with("moco", *QUIET, f"precision={used}"), tmp_path / "given").train()
    assert_equal(of_checkpoint(tmp_path / "auto"), of_checkpoint(tmp_path / "given"))
    chosen = state(tmp_path / "auto")["chosen"]["precision"]
    assert (chosen["asked"], chosen["used"]) == ("auto", used) and "images/s against" in chosen["why"]
    assert state(tmp_path / "given")["chosen"]["precision"] == {"asked": used, "used": used, "why": ""}
    for out in (tmp_path / "auto", tmp_path / "given"):
        assert json.loads((out / "export" / "recipe.json").read_text())["precision"] == used
    training = json.loads((tmp_path / "auto" / "export" / "results.json").read_text())["training"]
    assert training["precision"] == chosen


def test_a_fine_tuning_has_the_bits_of_the_precision_it_chose(wins: pytest.MonkeyPatch, tmp_path: Path):
    images = coloured(tmp_path / "images", 16, 8)
    noisy = ("mixup=0.8", "ema=0.9", 'backbone_args={"drop_rate": 0.2}', "epochs=1")

    def tune(precision: str) -> FineTuning:
        run = FineTuning(
            tiny_finetuning(images, *noisy, f"precision={precision}", model="untrained:test_vit"), tmp_path / precision
        )
        run.train()
        return run

    settings: FineTune = tune("auto").settings
    elsewhere(wins)
    tune("bf16")
    assert settings.precision == "bf16"
    assert_equal(of_checkpoint(tmp_path / "auto"), of_checkpoint(tmp_path / "bf16"))
    (record,) = json.loads((tmp_path / "auto" / "export" / "results.json").read_text())["evaluations"]
    assert record["settings"]["precision"] == "bf16"


def test_a_resumed_run_keeps_its_precision_on_another_machine_without_a_trial(won: pytest.MonkeyPatch, tmp_path: Path):
    recipe = tiny(*FAST, AUTO, "run.checkpoint_every=1")
    Run(recipe, tmp_path / "whole").train()
    stopped_at(won, recipe, tmp_path / "parted", 2)
    begun = state(tmp_path / "parted")["chosen"]
    elsewhere(won)
    run = Run(recipe, tmp_path / "parted", resume=True)
    assert "precision: bf16 (as at the start of the run); workers: 0" in run.notes
    results = run.train()
    assert_equal(exported(tmp_path / "whole"), exported(tmp_path / "parted"))
    assert state(tmp_path / "parted")["chosen"] == begun and begun["precision"]["asked"] == "auto"
    assert results["training"]["precision"] == begun["precision"]  # with what was measured at the start


def test_a_run_that_ended_before_its_first_checkpoint_keeps_its_precision(won: pytest.MonkeyPatch, tmp_path: Path):
    with Run(tiny(*FAST, AUTO), tmp_path)._lock:
        pass  # released
    elsewhere(won)
    assert Run(tiny(*FAST, AUTO), tmp_path, resume=True).recipe.precision == "bf16"


def test_a_run_with_a_given_precision_is_resumed_by_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As are the runs of versions whose default was "no", whose checkpoints hold no choices."""
    recipe = tiny(*FAST, "precision=bf16", "channels_last=false")
    with monkeypatch.context() as patch:
        save = Checkpoints.save
        patch.setattr(Checkpoints, "save", lambda kept, made: made.state.pop("chosen") and save(kept, made))
        stopped_at(patch, recipe, tmp_path, 1)
    auto = override(recipe, [AUTO, "channels_last=auto"])
    assert "chosen" not in state(tmp_path)
    run = Run(auto, tmp_path, resume=True)
    assert (run.recipe.precision, run.recipe.channels_last) == ("bf16", False) and run.step == 1
    used = {"asked": "auto", "used": "bf16", "why": "as at the start of the run"}
    assert run.train()["training"]["precision"] == used
    with pytest.raises(ValueError, match="precision: 'bf16', 'no'"):
        Run(override(recipe, ["precision=no"]), tmp_path, resume=True)


def test_fp16_of_a_gpu_is_not_resumed_on_a_cpu(tmp_path: Path):
    recipe = tiny(AUTO)
    write_json(tmp_path / "recipe.json", recipe.to_dict() | {"precision": "fp16"})
    with pytest.raises(ValueError, match=r"started with precision=fp16, which needs a GPU; resume it on one, or start"):
        Run(recipe, tmp_path, resume=True)


def test_a_machine_without_bf16_makes_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    elsewhere(monkeypatch)
    run = Run(tiny(*FAST, AUTO), tmp_path)
    assert run.recipe.precision == "no" and run.accelerator.mixed_precision == "no"
    assert "precision: float32 (this CPU has no bf16 instructions); workers: 0" in run.notes


def test_a_layout_that_fails_in_bf16_alone_is_kept_in_float32(won: pytest.MonkeyPatch, tmp_path: Path):
    won.setattr(layout, "fault", lambda convolutions, precision: "it crashes" if precision == "bf16" else None)
    won.setattr(choice, "tried", lambda *given: Choice("no", "9.8 images/s against 9.7 in bf16"))
    run = Run(tiny(*QUIET, AUTO, "channels_last=auto"), tmp_path / "auto")
    assert (run.recipe.precision, run.recipe.channels_last) == ("no", True)
    assert not any("contiguous" in note for note in run.notes)
    run.train()
    Run(tiny(*QUIET, "channels_last=true"), tmp_path / "given").train()
    assert_equal(of_checkpoint(tmp_path / "auto"), of_checkpoint(tmp_path / "given"))


DISAGREE = """
import sys
from accelerate import PartialState
from star_training.cli.main import main
from star_training.engine.trainer import Loop
from star_training.numerics import choice, processor
processor.has_bf16 = lambda: True
choice.step_seconds = lambda *given: {"no": 2.0, "bf16": 1.0 + 2 * PartialState().process_index}
begin = Loop.begin
def begin_and_record(run, *given):
    begin(run, *given)
    path = run.out.parent / f"precision-{run.accelerator.process_index}"
    path.write_text(f"{run.accelerator.mixed_precision} {run.recipe.precision}")
Loop.begin = begin_and_record
sys.exit(main())
"""


@pytest.mark.slow
def test_two_processes_follow_the_first(tmp_path: Path):
    script = tmp_path / "disagree.py"
    script.write_text(DISAGREE)
    settings = ("run.eval_every=0", "epochs=1", AUTO)
    code, said, errors = finish(start(command(tmp_path / "run", settings=settings), program=(*TWO, str(script))))
    assert code == 0, errors
    assert "precision: bf16 (4 images/s against 2 in float32); workers: 0" in said.splitlines()
    assert [(tmp_path / f"precision-{rank}").read_text() for rank in (0, 1)] == ["bf16 bf16"] * 2
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["precision"] == "bf16"


@pytest.mark.parametrize(
    ("device", "cores", "local", "expected"),
    [("cpu", 1, 1, 0), ("cpu", 2, 1, 1), ("cpu", 2, 2, 0), ("cpu", 64, 1, 2), ("cuda", 1, 1, 1), ("cuda", 8, 1, 7),
     ("cuda", 64, 8, 7), ("cuda", 64, 1, 12)],
)  # fmt: skip
def test_workers_are_counted_by_the_cores_of_a_process(
    device: str, cores: int, local: int, expected: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert workers.useful_beside(torch.device(device)) == expected


def test_workers_change_no_bit(tmp_path: Path):
    for given in ("auto", "0"):
        Run(tiny(*FAST, f"run.workers={given}"), tmp_path / given).train()
    assert_equal(of_checkpoint(tmp_path / "auto"), of_checkpoint(tmp_path / "0"))


@pytest.mark.parametrize("name", studies.known())
def test_a_study_has_one_precision_on_every_machine(name: str):
    study = studies.find(name)
    for variant in (study, study.in_haste()):
        assert variant.recipe.precision != "auto"


def test_the_recorded_runs_of_studies_had_the_precision_of_their_definitions():
    recorded = sorted((Path(__file__).parents[3] / "hub_cards").glob("*_small/results/*.json"))
    assert len(recorded) > 60
    for path in recorded:
        study, content = studies.find(path.parent.parent.name), json.loads(path.read_text())
        precisions = {Recipe.from_dict(part["recipe"]).precision for part in content.get("parts", [content])}
        assert precisions <= {study.recipe.precision, study.in_haste().recipe.precision}, path
