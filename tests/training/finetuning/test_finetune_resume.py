"""A fine-tuning that was stopped or killed and goes on ends with the same bits as one that was left alone."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from finetune_cases import coloured, tiny
from runs import assert_equal, entries
from star_training.engine.saving.checkpoint import Checkpoints, CheckpointWarning
from star_training.engine.signals import Stopped
from star_training.finetuning.config import FineTune
from star_training.finetuning.run import FineTuning

STEPS, EPOCH, EVERY = 12, 6, 5  # steps in all, in an epoch, between checkpoints
NOISY = (
    f"run.checkpoint_every={EVERY}", "optimizer.lr=0.1", "mixup=0.8", "cutmix=1", "ema=0.9", "views.jitter=0.4",
    'backbone_args={"drop_rate": 0.2, "drop_path_rate": 0.2}', "data.fraction=0.99",
    "optimizer.layer_decay=0.75",
)  # fmt: skip
VARIANTS = {
    "one worker": ("run.workers=1",),
    "momentum, no average, no mixing": ("optimizer.name=momentum", "ema=null", "mixup=0", "cutmix=0"),
    "lamb, no layer decay": ("optimizer.name=lamb", "optimizer.layer_decay=null"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A noisy fine-tuning that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "out"
    FineTuning(tiny(images, *NOISY), out).train()
    return out


def exported(out: Path) -> dict[str, Tensor]:
    return load_file(out / "export" / "model.safetensors")


def record(out: Path) -> dict[str, Any]:
    """What was measured, without what differs between two sittings."""
    (made,) = json.loads((out / "export" / "results.json").read_text())["evaluations"]
    del made["seconds"]
    return made


def ended_at(monkeypatch: pytest.MonkeyPatch, made: FineTune, out: Path, step: int, how: int | Exception) -> None:
    """A fine-tuning that in `step` gets a signal, or dies of an exception without a chance to save anything."""
    original = FineTuning._train_step

    def train_step(self: FineTuning, *args: Any) -> None:
        original(self, *args)
        if self.step == step:
            if isinstance(how, Exception):
                raise how
            os.kill(os.getpid(), how)

    with monkeypatch.context() as patch, pytest.raises(Stopped if isinstance(how, int) else type(how)):
        patch.setattr(FineTuning, "_train_step", train_step)
        FineTuning(made, out).train()


@pytest.mark.parametrize("name", VARIANTS)
def test_stopped_in_mid_epoch_it_goes_on_to_the_same_bits(name: str, images: Path, tmp_path: Path, monkeypatch):
    made = tiny(images, *NOISY, *VARIANTS[name])
    FineTuning(made, tmp_path / "whole").train()
    ended_at(monkeypatch, made, tmp_path / "parted", EPOCH + 2, signal.SIGTERM)
    assert not (tmp_path / "parted" / "export").exists()
    FineTuning(made, tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))
    assert record(tmp_path / "parted") == record(tmp_path / "whole")
    for kind in ("loss", "top1"):
        whole, parted = ([(e["step"], e[kind]) for e in entries(tmp_path / n, kind)] for n in ("whole", "parted"))
        assert parted == whole


def test_killed_it_goes_on_from_its_last_intact_checkpoint(images: Path, whole: Path, tmp_path: Path, monkeypatch):
    made = tiny(images, *NOISY)
    ended_at(monkeypatch, made, tmp_path / "parted", 2 * EVERY + 1, MemoryError())
    older, newest = sorted((tmp_path / "parted" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.warns(CheckpointWarning):
        again = FineTuning(made, tmp_path / "parted", resume=True)
    assert again.step == EVERY and older.name == f"step-{EVERY:09d}.safetensors"
    again.train()
    assert_equal(exported(tmp_path / "parted"), exported(whole))
    assert [e["step"] for e in entries(tmp_path / "parted")] == [*range(1, STEPS + 1)]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("untrained:test_resnet", ("canonicalize=c4",)),
        ("concat:untrained:test_resnet+untrained:test_resnet", ()),
    ],
)
def test_a_killed_wrapper_goes_on_to_the_same_bits(
    model: str, changes: tuple[str, ...], images: Path, tmp_path: Path, monkeypatch
):
    made = tiny(images, *NOISY, "optimizer.layer_decay=null", *changes, model=model)
    FineTuning(made, tmp_path / "whole").train()
    ended_at(monkeypatch, made, tmp_path / "parted", 2 * EVERY + 1, MemoryError())
    again = FineTuning(made, tmp_path / "parted", resume=True)
    assert again.step == 2 * EVERY
    again.train()
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))
    assert record(tmp_path / "parted") == record(tmp_path / "whole")


def test_killed_before_its_first_checkpoint_it_starts_again(images: Path, whole: Path, tmp_path: Path, monkeypatch):
    made = tiny(images, *NOISY)
    ended_at(monkeypatch, made, tmp_path / "parted", 2, MemoryError())
    FineTuning(made, tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(whole))


def test_resuming_a_finished_one_exports_it_again(images: Path, whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "out", ignore=shutil.ignore_patterns("export"))
    FineTuning(tiny(images, *NOISY), tmp_path / "out", resume=True).train()
    assert_equal(exported(tmp_path / "out"), exported(whole))
    assert record(tmp_path / "out") == record(whole)


def test_what_decides_no_weights_may_differ(images: Path, whole: Path, tmp_path: Path, monkeypatch):
    made = tiny(images, *NOISY)
    ended_at(monkeypatch, made, tmp_path / "parted", 3, signal.SIGINT)
    shutil.copytree(images, tmp_path / images.name)
    other = tiny(tmp_path / images.name, *NOISY, "run.log_every=4", "run.workers=1", "run.eval_every=0", "run.keep=1")
    FineTuning(other, tmp_path / "parted", resume=True).train()
    assert_equal(exported(tmp_path / "parted"), exported(whole))


def test_what_differs_is_refused(images: Path, tmp_path: Path, monkeypatch):
    made, out = tiny(images, *NOISY), tmp_path / "out"
    with pytest.raises(ValueError, match=r"out holds no run to resume; start one without --resume"):
        FineTuning(made, out, resume=True)
    ended_at(monkeypatch, made, out, 3, signal.SIGTERM)
    with pytest.raises(ValueError, match=r"out already holds a run; resume the run .--resume, resume=True., or"):
        FineTuning(made, out)
    with pytest.raises(
        ValueError, match=r"settings differ .* \(theirs, yours\): epochs: 2, 3; seed: 0, 1; pass the same"
    ):
        FineTuning(tiny(images, *NOISY, "epochs=3", "seed=1", "run.keep=5"), out, resume=True)
    more = coloured(tmp_path / "more", train=60)
    with pytest.raises(ValueError, match=r"the images of .*more are not those that .*out began with"):
        FineTuning(tiny(more, *NOISY), out, resume=True)
    (out / "finetune.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not a valid finetune\.json"):
        FineTuning(made, out, resume=True)


def test_test_images_may_not_change_under_a_run(tmp_path: Path, monkeypatch):
    """Accuracies of different images would be compared, and recorded as one curve."""
    images = coloured(tmp_path / "images")
    made = tiny(images, *NOISY)
    ended_at(monkeypatch, made, tmp_path / "out", EPOCH + 2, signal.SIGTERM)
    next((images / "test" / "red").iterdir()).unlink()
    with pytest.raises(ValueError, match="the test images of .* are not those that .* began with"):
        FineTuning(made, tmp_path / "out", resume=True)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_any_seed_mixes_images(seed: int, images: Path, tmp_path: Path):
    FineTuning(tiny(images, f"seed={seed}", "mixup=0.2", "epochs=1"), tmp_path / "out").train()


def test_a_checkpoint_of_a_version_without_test_images_can_be_resumed(images: Path, tmp_path: Path, monkeypatch):
    made = tiny(images, *NOISY)
    ended_at(monkeypatch, made, tmp_path / "out", EPOCH + 2, signal.SIGTERM)
    checkpoints = Checkpoints(tmp_path / "out" / "checkpoints", 2)
    newest = checkpoints.newest()
    assert newest is not None
    del newest.state["test"]
    checkpoints.save(newest)
    assert FineTuning(made, tmp_path / "out", resume=True).step == EPOCH + 2
