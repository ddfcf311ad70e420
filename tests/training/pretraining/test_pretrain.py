"""The loop that pretrains: what a step computes, what diverging does, and what each switch of a recipe changes."""

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import timm
import torch
from torch import Tensor

from runs import EPOCH, EVALUATED, STEPS, assert_equal, at_step, entries, exported, tiny, tiny_with
from star_training.cli.main import main
from star_training.data.views import MultiViewDataset, StepBatches, loader
from star_training.pretraining.module import build
from star_training.pretraining.run import Run
from star_zoo import Batch, load_objective, objectives

QUIET = ("run.eval_every=0", "epochs=1")


@pytest.fixture
def other_precision() -> Iterator[None]:
    """Accelerate keeps one precision for a process; within this, a run may have another."""
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)


def parameters(out: Path) -> dict[str, Tensor]:
    """What a run exported, without the running statistics."""
    return {k: v for k, v in exported(out).items() if "running" not in k and "tracked" not in k}


def assert_near(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def views(run: Run, step: int) -> list[Batch]:
    """The batches of one step."""
    recipe = run.recipe
    dataset = MultiViewDataset(run.source, recipe.policy, run.pretrainer.objective.plan, recipe.seed)
    sampler = StepBatches(len(run.source), recipe.batch_size, recipe.accumulate, recipe.seed, range(step, step + 1))
    return [packed.batch() for packed in loader(dataset, sampler, 0, pin=False)]


# A run


def test_a_run_is_the_same_each_time_and_another_with_another_seed(tmp_path: Path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        Run(tiny(*QUIET, f"seed={seed}", "backbone_args.drop_rate=0.2"), tmp_path / name).train()
    assert_equal(exported(tmp_path / "one"), exported(tmp_path / "again"))
    one, other = exported(tmp_path / "one"), exported(tmp_path / "other")
    weight = "heads:heads.router.linear.weight"
    assert not torch.equal(one[weight], other[weight])


def test_a_run_leaves_its_recipe_its_log_its_checkpoints_and_its_export(tmp_path: Path, capsys):
    recipe = tiny("run.keep=1", EVALUATED)
    results = Run(recipe, tmp_path).train()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "checkpoints", "export", "log.jsonl", "recipe.json"]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step-{STEPS:09d}.safetensors"]
    assert json.loads((tmp_path / "recipe.json").read_text()) == recipe.to_dict()
    assert json.loads((tmp_path / "export" / "results.json").read_text()) == results
    assert results["training"]["steps"] == STEPS and results["training"]["images"] == 8 * STEPS
    assert [e["step"] for e in results["online"]] == [0, STEPS]
    train, test = (results["online_images"][split] for split in ("train", "test"))
    said = f"frozen features after epoch 0, on {test:,} test images: r2"
    assert train == 8 * EPOCH and said in capsys.readouterr().out
    assert [e["step"] for e in entries(tmp_path, "router")] == [0, EPOCH, STEPS]
    assert all(sum(task) == pytest.approx(1) for e in entries(tmp_path, "router") for task in e["router"])
    for entry in entries(tmp_path):
        assert entry["loss"] == pytest.approx(entry["invariant"] + entry["equivariant"], rel=1e-6)
        assert entry["images_per_second"] > 0 and 0 <= entry["data_wait"] <= 1
        assert entry["epoch"] == entry["step"] / EPOCH


def test_an_entry_is_the_mean_since_the_one_before(tmp_path: Path):
    Run(tiny(*QUIET), tmp_path / "each").train()
    Run(tiny(*QUIET, "run.log_every=3", "run.checkpoint_every=99"), tmp_path / "third").train()
    losses = [e["loss"] for e in entries(tmp_path / "each")]
    third = entries(tmp_path / "third")
    assert [e["step"] for e in third] == [3, 4]  # and where an epoch ends
    assert third[0]["loss"] == pytest.approx(sum(losses[:3]) / 3) and third[1]["loss"] == pytest.approx(losses[3])
    assert_equal(exported(tmp_path / "each"), exported(tmp_path / "third"))


def test_a_step_follows_the_mean_gradient_of_its_batches(tmp_path: Path):
    run = Run(tiny(*QUIET, "batch_size=4", "accumulate=2"), tmp_path)
    gradients: list[dict[str, Tensor]] = []

    def remember(*_: Any) -> None:
        gradients.append({name: p.grad.clone() for name, p in run.pretrainer.named_parameters()})

    run.optimizer.optimizer.register_step_pre_hook(remember)
    torch.manual_seed(run.recipe.seed)
    twin, _ = build(run.recipe)
    for batch in views(run, 0):
        twin(batch)["loss"].backward()
    run.train()
    assert len(gradients) == EPOCH
    assert_near(gradients[0], {name: p.grad / 2 for name, p in twin.named_parameters()}, 1e-5)


def test_the_gradient_is_clipped_as_a_whole(tmp_path: Path):
    norms: dict[str, list[float]] = {}
    for clip in ("null", "0.01"):
        run = Run(tiny(*QUIET, f"optimizer.clip={clip}", "batch_size=4", "accumulate=2"), tmp_path / clip)

        def remember(*_: Any, run: Run = run, clip: str = clip) -> None:
            total = sum(float(p.grad.square().sum()) for p in run.pretrainer.parameters())
            norms.setdefault(clip, []).append(math.sqrt(total))

        run.optimizer.optimizer.register_step_pre_hook(remember)
        run.train()
    assert min(norms["null"]) > 0.1
    assert norms["0.01"] == pytest.approx([0.01] * EPOCH, rel=1e-3)


def test_the_module_trains_in_the_mode_and_layout_of_its_recipe(tmp_path: Path, monkeypatch):
    seen = []

    def look(run: Run) -> None:
        weight = run.pretrainer.backbone.layer2[0].conv1.weight
        seen.append((run.pretrainer.training, weight.is_contiguous(memory_format=torch.channels_last)))

    at_step(monkeypatch, EPOCH + 1, look)  # after an evaluation
    for value in ("true", "false"):
        Run(tiny(f"channels_last={value}"), tmp_path / value).train()
    assert seen == [(True, True), (True, False)]


# Switches


@pytest.mark.parametrize("name", objectives.known())
def test_every_objective_trains_under_the_same_recipe(tmp_path: Path, name: str):
    recipe = tiny_with(name, *QUIET, "data.limit=16")
    run = Run(recipe, tmp_path)
    before = {k: v.clone() for k, v in run.pretrainer.named_parameters() if v.requires_grad}
    run.train()
    assert all(math.isfinite(e["loss"]) for e in entries(tmp_path)) and len(entries(tmp_path)) == 2
    assert [
        k for k, p in run.pretrainer.named_parameters() if k in before and torch.equal(p, before[k])
    ] == []  # all of it learns
    assert json.loads((tmp_path / "export" / "heads.json").read_text())["objective"] == name


@pytest.mark.parametrize("name", [name for name in objectives.known() if objectives.find(name).needs_group])
def test_an_objective_that_needs_a_group_says_so_in_one_line(tmp_path: Path, name: str, capsys):
    sets = ("--set", "backbone=test_resnet")
    assert main(["pretrain", "spirograph_tiny", "--objective", name, "--out", str(tmp_path), *sets]) == 1
    assert not (tmp_path / "checkpoints").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    assert "ResNet has no regular_features" in lines[-1] and "--set backbone=star_c4_resnet10t" in lines[-1]


def test_a_backbone_whose_output_is_wider_than_its_last_stage_trains(tmp_path: Path):
    run = Run(tiny(*QUIET, "data.limit=8", "backbone=test_mambaout"), tmp_path)
    assert run.pretrainer.backbone.num_features < run.pretrainer.objective.heads.router.linear.in_features
    run.train()
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    assert model(torch.rand(2, 3, 32, 32)).shape[1] == load_objective(tmp_path / "export").config["num_features"]


def test_checkpointed_activations_change_no_weight(tmp_path: Path):
    for value in ("true", "false"):
        sets = ("optimizer.name=momentum", "accumulate=2", "batch_size=4", f"grad_checkpointing={value}")
        Run(tiny(*QUIET, *sets), tmp_path / value).train()
    assert_near(exported(tmp_path / "true"), exported(tmp_path / "false"), 1e-5)  # running statistics too


def test_bfloat16_trains_nearly_alike_and_keeps_its_weights_in_float32(tmp_path: Path, other_precision, monkeypatch):
    Run(tiny(*QUIET), tmp_path / "no").train()
    accelerate.state.AcceleratorState._reset_state(True)
    kinds = []

    def look(run: Run) -> None:
        with run.accelerator.autocast():
            kinds.append(run.pretrainer.backbone(torch.rand(2, 3, 32, 32)).dtype)

    at_step(monkeypatch, 1, look)
    Run(tiny(*QUIET, "precision=bf16"), tmp_path / "bf16").train()
    assert kinds == [torch.bfloat16]
    assert {t.dtype for t in exported(tmp_path / "bf16").values()} == {torch.float32, torch.int64}
    first, again = (entries(tmp_path / name)[0]["loss"] for name in ("no", "bf16"))
    assert again == pytest.approx(first, rel=0.02) and again != first


@pytest.mark.slow
def test_a_compiled_run_trains_alike(tmp_path: Path):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler")
    small = ("backbone=test_vit", "backbone_args.depth=1", "optimizer.name=momentum", *QUIET, "data.limit=16")
    for value in ("true", "false"):
        Run(tiny(*small, f"compile={value}").with_objective("simclr"), tmp_path / value).train()
    assert_near(parameters(tmp_path / "true"), parameters(tmp_path / "false"), 1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_fp16_needs_a_gpu(tmp_path: Path):
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU; on a CPU use bf16 or no"):
        Run(tiny("precision=fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Trackers


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Run(tiny(EVALUATED), tmp_path, tracker="tensorboard").train()
    (event,) = tmp_path.rglob("events.out.tfevents.*")
    events = accumulator.EventAccumulator(str(event)).Reload()
    losses = [(e.step, e.value) for e in events.Scalars("loss")]
    assert losses == [(e["step"], pytest.approx(e["loss"])) for e in entries(tmp_path)]
    for name in ("r2", "rankme"):
        measured = [(e["step"], pytest.approx(e[name])) for e in entries(tmp_path, name)]
        assert [(e.step, e.value) for e in events.Scalars(name)] == measured
        assert [step for step, _ in measured] == [0, EPOCH, STEPS]


class Wandb:
    """A stand-in for the package wandb and for a run of it, as Accelerate's tracker uses them."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.project, self.finished = "", False

    def init(self, project: str, **_: Any) -> "Wandb":
        self.project = project
        return self

    def log(self, values: dict[str, float], step: int, **_: Any) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_wandb_gets_what_the_log_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    available = [*accelerate.tracking._available_trackers, accelerate.utils.LoggerType.WANDB]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", available)
    Run(tiny("epochs=1", EVALUATED), tmp_path, tracker="wandb").train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    numbers = [(line.pop("step"), {k: v for k, v in line.items() if isinstance(v, int | float)}) for line in lines]
    assert wandb.logged == numbers and len(numbers) == 2 * 2 + EPOCH
    assert wandb.project == "star-zoo" and wandb.finished


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ("tensorbord", "tracker 'tensorbord' not found; did you mean 'tensorboard'. known: .*tensorboard, wandb"),
        ("all", "tracker 'all' not found"),
        ("clearml", "tracker 'clearml' is not installed; pip install clearml"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_refused(tmp_path: Path, tracker: str, message: str):
    with pytest.raises(ValueError, match=message):
        Run(tiny(), tmp_path / "run", tracker=tracker)
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_set_up_leaves_no_tracker_files(tmp_path: Path):
    with contextlib.suppress(ValueError):
        Run(tiny("backbone=nothing"), tmp_path / "run", tracker="tensorboard")
    assert not (tmp_path / "run").exists()
