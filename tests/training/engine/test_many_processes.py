"""Two processes of one run: they compute what one would, write once, and stop and go on together."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from runs import EPOCH, EVALUATED, NOISY, STEPS, TWO, assert_equal, command, entries, exported, finish, start, tiny
from star_training.data.sources.spirograph import Spirographs
from star_training.engine.saving.checkpoint import Checkpoints
from star_training.pretraining.run import Run
from star_training.pretraining.setup import count_steps
from star_zoo import load_objective

# batch norm sees one process's images only, on CPUs; in eval mode it sees none
STILL = """
import sys
from torch import nn
nn.BatchNorm1d.train = lambda self, mode=True: nn.Module.train(self, False)
from star_training.cli.main import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run of two processes, with dropout that differs between them."""
    out = tmp_path_factory.mktemp("two") / "run"
    process = start(command(out, settings=(*NOISY, EVALUATED, "run.workers=1")), program=(*TWO, "-m", "star_training"))
    code, stdout, stderr = finish(process)
    assert code == 0, stderr
    assert stderr.strip() == ""
    assert stdout.count("exported to") == 1
    return out


@pytest.mark.slow
def test_two_processes_run_to_the_end_and_write_once(whole: Path):
    assert [e["step"] for e in entries(whole)] == [*range(1, STEPS + 1)]
    assert [e["step"] for e in entries(whole, "r2")] == [0, EPOCH, STEPS]
    assert sorted(p.name for p in whole.iterdir()) == [".lock", "checkpoints", "export", "log.jsonl", "recipe.json"]
    assert len(list((whole / "checkpoints").iterdir())) == 2
    training = json.loads((whole / "export" / "results.json").read_text())["training"]
    assert training["processes"] == 2 and training["images"] == 8 * STEPS


@pytest.mark.slow
def test_each_process_has_noise_of_its_own(whole: Path):
    newest = Checkpoints(whole / "checkpoints", 2).newest()
    assert newest is not None
    assert not torch.equal(newest.tensors["random.0.cpu"], newest.tensors["random.1.cpu"])


@pytest.mark.slow
def test_their_export_loads_and_is_finite(whole: Path):
    model = timm.create_model(f"local-dir:{whole / 'export'}", pretrained=True)
    assert model(torch.rand(2, 3, 32, 32)).isfinite().all()
    assert load_objective(whole / "export").config["objective"] == "star"
    assert all(t.isfinite().all() for t in exported(whole).values())


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_same_bits(whole: Path, tmp_path: Path):
    out = tmp_path / "run"
    settings = (*NOISY, "run.workers=1")
    process = start(command(out, settings=settings), program=(*TWO, "-m", "star_training"))
    deadline = time.monotonic() + 120
    while not ((out / "log.jsonl").exists() and entries(out)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)  # as a cluster does; the launcher passes it on
    _, _, stderr = finish(process)
    steps = re.findall(r"stopped by SIGTERM after step (\d+)", stderr)
    assert len(steps) == 2 and len(set(steps)) == 1 and int(steps[0]) < STEPS, stderr
    assert sorted((out / "checkpoints").iterdir())[-1].name == f"step-{int(steps[0]):09d}.safetensors"
    process = start(command(out, "--resume", settings=settings), program=(*TWO, "-m", "star_training"))
    code, _, stderr = finish(process)
    assert code == 0, stderr
    assert_equal(exported(out), exported(whole))
    assert [e["step"] for e in entries(out)] == [*range(1, STEPS + 1)]


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path, monkeypatch):
    settings = ("backbone=test_vit", "accumulate=2", "batch_size=4", "optimizer.name=momentum", "optimizer.lr=1")
    settings = (*settings, "optimizer.clip=1", "epochs=1", "run.eval_every=0")
    (tmp_path / "still.py").write_text(STILL)
    process = start(command(tmp_path / "two", settings=settings), program=(*TWO, str(tmp_path / "still.py")))
    monkeypatch.setattr(nn.BatchNorm1d, "train", lambda self, mode=True: nn.Module.train(self, False))
    run = Run(tiny(*settings), tmp_path / "one")
    before = {name: p.detach().clone() for name, p in run.pretrainer.named_parameters()}
    run.train()
    code, _, stderr = finish(process)
    assert code == 0, stderr
    for one, two in zip(entries(tmp_path / "one"), entries(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["equivariant"] == pytest.approx(one["equivariant"], rel=1e-5)
    ones, twos = exported(tmp_path / "one"), exported(tmp_path / "two")
    for name, old in before.items():
        key = name.replace("encoder.backbone.", "model:", 1).replace("objective.", "heads:", 1)
        moved = float((ones[key] - old).abs().max())  # by all steps together
        assert float((twos[key] - ones[key]).abs().max()) < min(1e-5, 1e-2 * moved), name


def test_a_batch_must_be_divisible_among_the_processes():
    with pytest.raises(ValueError, match="batch_size 9 must be a multiple of the number of processes, 2"):
        count_steps(tiny("batch_size=9"), Spirographs(90), 2)
    assert count_steps(tiny("batch_size=9", "accumulate=2"), Spirographs(90), 3) == (5, 10)
