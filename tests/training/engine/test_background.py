"""Checkpoints are written while training goes on: what is written, when errors are raised, how long the loop waits."""

import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runs import STEPS, assert_equal, at_step, exported, tiny
from star_training.engine.saving.background import Background
from star_training.engine.saving.checkpoint import Checkpoints, Snapshot
from star_training.pretraining.run import Run


def test_work_goes_on_beside_and_its_end_is_waited_for():
    gate, done = threading.Event(), []
    with Background() as background:
        background.start(lambda: (gate.wait(10), done.append(1)))
        background.check()
        assert not done
        gate.set()
    assert done == [1]


def test_pieces_of_work_come_one_after_the_other():
    seen: list[int] = []
    with Background() as background:
        for number in range(5):
            background.start(lambda number=number: (time.sleep(0.02 * (4 - number)), seen.append(number)))
    assert seen == [0, 1, 2, 3, 4]


def fail() -> None:
    raise OSError("no room")


def test_an_error_is_raised_once_in_the_main_thread():
    background = Background()
    background.start(fail)
    with pytest.raises(OSError, match="no room"):
        background.finish()
    background.check()


def test_an_error_is_raised_at_the_end_unless_there_is_one_already():
    with pytest.raises(OSError, match="no room"), Background() as background:
        background.start(fail)
    with pytest.raises(ValueError, match="first"), Background() as background:
        background.start(fail)
        raise ValueError("first")


def test_a_snapshot_is_what_was_there_and_uses_its_memory_again():
    tensors = {
        "weight": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "count": torch.tensor(3),
        "half": torch.randn(7).bfloat16(),
    }
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    snapshot = Snapshot()
    first = snapshot.take(tensors)
    for tensor in tensors.values():
        tensor.add_(1)
    assert_equal(first, before)
    second = snapshot.take(tensors)
    assert_equal(second, tensors)
    assert all(second[name].data_ptr() == first[name].data_ptr() for name in tensors)
    grown = snapshot.take({**tensors, "count": torch.arange(3), "more": torch.ones(2)})
    assert torch.equal(grown["count"], torch.arange(3)) and "more" in grown


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch):
    """The write of step 3's checkpoint ends only in step 5, and still holds the weights of step 3."""
    gate, save, late = threading.Event(), Checkpoints.save, []

    def slow(self: Checkpoints, checkpoint):
        if checkpoint.step == 3:
            late.append(gate.wait(60))
        return save(self, checkpoint)

    recipe = tiny("run.keep=9")
    Run(recipe, tmp_path / "whole").train()
    monkeypatch.setattr(Checkpoints, "save", slow)
    at_step(monkeypatch, 5, lambda run: gate.set())
    Run(recipe, tmp_path / "run").train()
    assert late == [True]
    folders = [tmp_path / name / "checkpoints" for name in ("run", "whole")]
    names = [f"step-{step:09d}.safetensors" for step in (3, 6, 8)]
    assert [sorted(p.name for p in folder.iterdir()) for folder in folders] == [names, names]
    for name in names:
        assert_equal(*(load_file(folder / name) for folder in folders))
    assert_equal(exported(tmp_path / "run"), exported(tmp_path / "whole"))


def test_an_error_of_the_writer_ends_the_run_at_the_next_step(tmp_path: Path, monkeypatch):
    def broken(self: Checkpoints, checkpoint) -> None:
        raise OSError("no room")

    reached: list[int] = []
    monkeypatch.setattr(Checkpoints, "save", broken)
    for step in range(1, STEPS + 1):
        at_step(monkeypatch, step, lambda run: (time.sleep(0.05), reached.append(run.step)))
    with pytest.raises(OSError, match="no room"):
        Run(tiny(), tmp_path / "run").train()
    assert reached == [1, 2, 3, 4]  # the checkpoint of step 3 failed while step 4 was computed
