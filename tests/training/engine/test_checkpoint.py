"""Checkpoints: atomic, checked, the last few kept, damaged ones passed over; an optimiser comes back to the bit."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from disk import files_end_at
from star_training.engine.optim import build_optimizer, check_optimizer
from star_training.engine.saving.checkpoint import (
    Checkpoint,
    Checkpoints,
    CheckpointWarning,
    pack_optimizer,
    unpack_optimizer,
)
from star_training.settings.common import OptimizerConfig

STATE = {"optimizer": {"lr": 0.03}, "data": "abc", "seconds": 1.5}


def tensors(seed: int, size: int = 50) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.randn(size, 4, generator=generator),
        "bfloat16": torch.randn(3, generator=generator).bfloat16(),
        "count": torch.tensor(seed),
        "bytes": torch.randint(0, 256, (7,), dtype=torch.uint8, generator=generator),
        "nothing": torch.empty(0, 3),
        "channels last": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
    }


def saved(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(Checkpoint(step, tensors(step), STATE))
    return checkpoints


def found(checkpoints: Checkpoints) -> tuple[int | None, int]:
    """The step of the newest intact checkpoint, and how many were passed over."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        newest = checkpoints.newest()
    assert {w.category for w in caught} <= {CheckpointWarning}
    skipped = [w for w in caught if str(w.message).startswith("skipped the damaged ")]
    assert len(caught) - len(skipped) == (newest is None and bool(skipped))  # that the run starts at step 0
    return newest and newest.step, len(skipped)


# Files


def test_what_was_saved_comes_back(tmp_path: Path):
    newest = saved(tmp_path, 3).newest()
    assert newest is not None and newest.step == 3 and newest.state == STATE
    assert newest.tensors.keys() == tensors(3).keys()
    for name, tensor in tensors(3).items():
        assert newest.tensors[name].dtype == tensor.dtype and torch.equal(newest.tensors[name], tensor)


def test_an_empty_folder_has_none(tmp_path: Path):
    assert Checkpoints(tmp_path / "missing", 1).newest() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_are_kept(tmp_path: Path, keep: int):
    saved(tmp_path, 2, 4, 6, 8, keep=keep)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        f"step-{s:09d}.safetensors" for s in (2, 4, 6, 8)[-keep:]
    ]  # and nothing else: no temporary file


def test_other_files_are_no_checkpoints(tmp_path: Path):
    for name in (".step-000000009.safetensors.1a2b.part", "step-x.safetensors", "step-000000009.txt"):
        (tmp_path / name).write_text("x")
    assert saved(tmp_path, 1).paths() == [tmp_path / "step-000000001.safetensors"]


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "empty": lambda data: b"",
    "garbage": lambda data: bytes(range(256)) * (len(data) // 256),
    "zeros": lambda data: bytes(len(data)),
    "zeros at the end": lambda data: data[:-200] + bytes(200),
    "one bit of a tensor": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "the rate of the optimiser": lambda data: data.replace(b"0.03", b"0.07"),
    "the step": lambda data: data.replace(b'\\"step\\": 4', b'\\"step\\": 5'),
    "another file": lambda data: b"PK\x03\x04" + data,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_newest_is_passed_over_with_one_warning(tmp_path: Path, name: str):
    checkpoints = saved(tmp_path, 2, 4)
    path = checkpoints.paths()[-1]
    data = path.read_bytes()
    assert DAMAGE[name](data) != data
    path.write_bytes(DAMAGE[name](data))
    with pytest.warns(CheckpointWarning, match=f"skipped the damaged .*{path.name}") as warned:
        newest = checkpoints.newest()
    assert newest is not None and newest.step == 2 and len(warned) == 1


def test_a_folder_in_its_place_is_passed_over(tmp_path: Path):
    checkpoints = saved(tmp_path, 2)
    (tmp_path / "step-000000004.safetensors").mkdir()
    assert found(checkpoints) == (2, 1)


def test_all_damaged_is_none(tmp_path: Path):
    checkpoints = saved(tmp_path, 2, 4, 6)
    for path in checkpoints.paths():
        path.write_bytes(b"x")
    assert found(checkpoints) == (None, 3)


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> tuple[Checkpoints, bytes]:
    checkpoints = saved(tmp_path_factory.mktemp("flips"), 4)
    return checkpoints, checkpoints.paths()[0].read_bytes()


@settings(derandomize=True, deadline=None, max_examples=300)
@given(where=st.floats(0, 1, exclude_max=True), header=st.booleans(), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(intact, where: float, header: bool, bit: int):
    checkpoints, data = intact
    end = int.from_bytes(data[:8], "little") + 8 if header else len(data)
    flipped = bytearray(data)
    flipped[int(where * end)] ^= 1 << bit
    checkpoints.paths()[0].write_bytes(flipped)
    assert found(checkpoints) == (None, 1)


def test_a_damaged_newer_one_pushes_out_no_good_one(tmp_path: Path):
    checkpoints = saved(tmp_path, 2, 4, 6, 8)
    for path in checkpoints.paths()[-2:]:
        path.write_bytes(b"x")
    assert found(checkpoints) == (4, 2)
    checkpoints.keep = 1
    checkpoints.save(Checkpoint(5, tensors(5), STATE))
    assert found(checkpoints) == (5, 0)


def test_nothing_is_ever_unpickled(tmp_path: Path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read")

    checkpoints = saved(tmp_path, 2)
    (tmp_path / "step-000000004.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    torch.save(tensors(6), tmp_path / "step-000000006.safetensors")
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert found(checkpoints) == (2, 2)


# Full disks


def refused(checkpoints: Checkpoints) -> str:
    with pytest.raises(OSError, match=r"000004.safetensors can't be written: .*; make room, then") as caught:
        checkpoints.save(Checkpoint(4, tensors(4, size=50_000), STATE))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path):
    with files_end_at(100_000):
        checkpoints = saved(tmp_path, 2)
        message = refused(checkpoints)
    assert f"the last good checkpoint is {tmp_path / 'step-000000002.safetensors'}" in message
    assert "--resume" in message
    assert found(checkpoints) == (2, 0)
    assert list(tmp_path.iterdir()) == checkpoints.paths()


def test_a_full_disk_before_the_first_one_is_reported(tmp_path: Path):
    with files_end_at(100_000):
        assert "there is no earlier checkpoint" in refused(Checkpoints(tmp_path, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_really_full_leaves_the_last_good_one(tmp_path: Path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only a privileged user may mount a small disk")
    try:
        checkpoints = saved(tmp_path, 2)
        assert "No space left on device" in refused(checkpoints)
        assert found(checkpoints) == (2, 0)
        assert list(tmp_path.iterdir()) == checkpoints.paths()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# Optimisers


def small(channels_last: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        module(x.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def layout(tensor: Tensor) -> list[int]:
    """Its strides, but those along which there is one step only."""
    return [stride for stride, length in zip(tensor.stride(), tensor.shape, strict=True) if length > 1]


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    name=st.sampled_from(["momentum", "sgd", "adamw", "adam", "lars", "lamb", "lion", "rmsprop", "adafactor", "muon"]),
    steps=st.integers(0, 3),
    decay_norms=st.booleans(),
    momentum=st.sampled_from([0.5, 0.9]),
    channels_last=st.booleans(),
)
@example(name="momentum", steps=2, decay_norms=True, momentum=0.0, channels_last=True)  # keeps no buffers
def test_an_optimiser_comes_back_to_the_bit(name, steps, decay_norms, momentum, channels_last):
    config = OptimizerConfig(name=name, lr=0.05, momentum=momentum, decay_norms=decay_norms)
    one = small(channels_last)
    optimizer = build_optimizer(config, one)
    train(one, optimizer, range(steps))
    packed, plain = pack_optimizer(optimizer.state_dict())
    packed, plain = {k: v.contiguous().clone() for k, v in packed.items()}, json.loads(json.dumps(plain))  # as a file

    other = small(channels_last)
    other.load_state_dict(one.state_dict())
    again = build_optimizer(config, other)
    again.load_state_dict(unpack_optimizer(packed, plain, parameters(again)))
    for before, after in zip(parameters(optimizer), parameters(again), strict=True):
        kept, back = optimizer.state[before], again.state[after]
        assert kept.keys() == back.keys()
        for key, value in kept.items():
            if isinstance(value, Tensor):
                assert value.dtype == back[key].dtype and layout(value) == layout(back[key])
                assert torch.equal(value, back[key])
    train(one, optimizer, range(steps, steps + 3))
    train(other, again, range(steps, steps + 3))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_packing_leaves_the_optimiser_alone():
    module = small()
    optimizer = build_optimizer(OptimizerConfig(name="lamb"), module)
    train(module, optimizer, range(2))
    before = copy.deepcopy(optimizer.state_dict())
    packed, plain = pack_optimizer(optimizer.state_dict())
    assert any(name.startswith("param_groups.") for name in packed)  # lamb counts its steps there
    unpack_optimizer(packed, plain, parameters(optimizer))
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.parametrize("name", ["momentum", "adamw", "lars", "lamb"])
def test_an_optimiser_that_works_passes_its_trial(name: str):
    check_optimizer(OptimizerConfig(name=name), torch.device("cpu"))


@pytest.mark.parametrize("name", ["adahessian", "adafactorbv"])
def test_an_optimiser_that_no_checkpoint_can_hold_is_refused_before_training(name: str):
    with pytest.raises(ValueError, match=f"optimizer.name is '{name}', which can't be used here"):
        check_optimizer(OptimizerConfig(name=name), torch.device("cpu"))
