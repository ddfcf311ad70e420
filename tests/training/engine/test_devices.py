"""The training loop on each device: the same tests run on the CPU and, marked `gpu`, on an NVIDIA GPU.

A run chooses the GPU if there is one, so that each machine runs one of the two.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import accelerate
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close

from runs import EPOCH, assert_equal, entries, pictures, stopped_at, tiny, tiny_with
from star_training.data.views import Packed
from star_training.numerics.precision import DTYPES
from star_training.pretraining.module import Pretrainer, build
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run
from twins import HostCalls, every_operation

HAS_GPU = torch.cuda.is_available()
GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU; there is none")]
)
CPU = pytest.param("cpu", marks=pytest.mark.skipif(HAS_GPU, reason="runs use this machine's GPU"))


@pytest.fixture(params=[CPU, GPU])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of this machine's runs; Accelerate, which keeps one precision per process, forgets it."""
    accelerate.state.AcceleratorState._reset_state(True)
    yield torch.device(request.param)
    accelerate.state.AcceleratorState._reset_state(True)


@contextlib.contextmanager
def not_waiting(device: torch.device) -> Iterator[None]:
    """Raises if the host waits for the device inside; on the CPU, if it would wait for a GPU."""
    if device.type == "cpu":
        with HostCalls() as calls:
            yield
        assert calls.names == []
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def opened(recipe: Recipe, out: Path) -> Iterator[tuple[Run, Iterator[Packed]]]:
    """A run that is driven step by step, with its batches."""
    run = Run(recipe, out)
    batches = run.batches(range(run.steps))
    run.module.train()
    run._mark = time.perf_counter()  # as `run_steps` does
    try:
        yield run, batches
    finally:
        batches.close()
        run.logbook.close()


def gradients(pretrainer: Pretrainer, batch: Packed, dtype: torch.dtype | None, scale: float) -> tuple[Tensor, Tensor]:
    """The loss and all gradients as one vector, in float32 if `dtype` is None."""
    pretrainer.zero_grad()
    with torch.autocast(batch.params.device.type, dtype or torch.bfloat16, enabled=bool(dtype)):
        loss = pretrainer(batch.batch())["loss"]
    (loss * scale).backward()
    found = [p.grad.flatten().float() / scale for p in pretrainer.parameters() if p.grad is not None]
    return loss.detach().float(), torch.cat(found)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_in_reduced_precision_is_that_in_float32(device: torch.device, precision: str, tmp_path: Path):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("fp16 needs a GPU, as make_accelerator says")
    with opened(tiny("batch_size=16"), tmp_path) as (run, batches):
        batch = next(batches).to(device)
    loss, exact = gradients(run.pretrainer, batch, None, 1.0)
    rough, found = gradients(run.pretrainer, batch, DTYPES[precision], 1.0 if precision == "bf16" else 1024.0)
    assert_close(rough, loss, rtol=0.02, atol=0)
    assert torch.cosine_similarity(exact, found, dim=0) > 0.97
    assert_close(found.norm(), exact.norm(), rtol=0.1, atol=0)
    assert not torch.equal(found, exact)  # it is another precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_reduced_precision_has_the_losses_of_one_in_float32(
    device: torch.device, precision: str, tmp_path: Path
):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("fp16 needs a GPU, as make_accelerator says")
    losses = []
    for kind in ("no", precision):
        accelerate.state.AcceleratorState._reset_state(True)
        Run(tiny(f"precision={kind}", "epochs=1", "run.eval_every=0"), tmp_path / kind).train()
        losses.append([entry["loss"] for entry in entries(tmp_path / kind)])
    assert losses[0] != losses[1] and len(losses[0]) == EPOCH
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_a_compiled_step_is_the_eager_one(device: torch.device, tmp_path: Path):
    with opened(tiny("batch_size=32"), tmp_path) as (run, batches):
        batch = next(batches).to(device)
    expected = gradients(run.pretrainer, batch, None, 1.0)
    # on the CPU, inductor's C++ takes a minute to compile; test_pretrain compiles a smaller network with it
    run.pretrainer.compile(backend="inductor" if device.type == "cuda" else "eager")
    found = gradients(run.pretrainer, batch, None, 1.0)
    torch._dynamo.reset()
    assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert (found[1] - expected[1]).norm() < 1e-2 * expected[1].norm()


@pytest.mark.parametrize(("name", "precision"), [("simclr", "no"), ("moco", "no"), ("star", "bf16"), ("ser", "bf16")])
def test_the_loop_never_waits_for_the_device(device: torch.device, name: str, precision: str, tmp_path: Path):
    recipe = tiny_with(name, "optimizer.name=momentum", "optimizer.clip=1", f"precision={precision}", "accumulate=2")
    with opened(recipe, tmp_path) as (run, batches):
        ready = [next(batches) for _ in range(4)]
        run._train_step(iter(ready[:2]))  # allocates, selects kernels, makes the optimiser's state
        before = [p.detach().clone() for p in run.module.parameters()]
        with not_waiting(device):
            run._train_step(iter(ready[2:]))
        run._log()  # the one place that waits
        assert len(entries(tmp_path)) == 1 and run._window == []
        changed = [not torch.equal(a, b) for a, b in zip(before, run.module.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 4


def test_a_stopped_run_goes_on_to_the_same_bits(device: torch.device, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS may sum in another order
    torch.use_deterministic_algorithms(True)
    try:
        recipe = tiny("backbone_args.drop_rate=0.2", "optimizer.name=momentum", "run.eval_every=0")
        Run(recipe, tmp_path / "whole").train()
        stopped_at(monkeypatch, recipe, tmp_path / "parts", 5)
        resumed = Run(recipe, tmp_path / "parts", resume=True)
        assert resumed.step == 5
        resumed.train()
    finally:
        torch.use_deterministic_algorithms(False)
    whole = Run(recipe, tmp_path / "whole", resume=True)
    assert_equal(dict(resumed.module.state_dict()), dict(whole.module.state_dict()))


def test_synchronised_batch_norms_compute_those_of_one_process(device: torch.device, tmp_path: Path):
    pretrainer, _ = build(tiny())
    synchronised, _ = build(tiny())
    synchronised.load_state_dict(pretrainer.state_dict())
    synchronised.synchronise_norms()
    kinds = [type(module) for module in synchronised.backbone.modules()]
    assert nn.SyncBatchNorm in kinds and nn.BatchNorm2d not in kinds
    images = [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(k)).to(device) for k in range(2)]
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":  # with a process group, these norms have no CPU kernel
            dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
            stack.callback(dist.destroy_process_group)
        results = []
        for module in (pretrainer, synchronised):
            features = module.to(device).train().encoder(images)
            torch.cat(features).square().sum().backward()
            results.append([*features, *(p.grad for p in module.backbone.parameters()), *module.backbone.buffers()])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_go_from_workers_to_the_device_without_waiting(device: torch.device, workers: int, tmp_path: Path):
    folder = pictures(tmp_path / "images", 16)
    settings = (f"data.source={folder}", "data.hold_out=0", "run.eval_every=0")
    plain, in_workers = (
        dataclasses.replace(tiny(*settings, f"run.workers={count}"), policy=every_operation(32))
        for count in (0, workers)
    )
    with opened(plain, tmp_path / "plain") as (_, batches):
        expected = next(batches)
    with opened(in_workers, tmp_path / "run") as (_, batches):
        batch = next(batches)
    assert batch.target is not None
    for tensor in (*batch.views, batch.params, batch.index, batch.size, batch.target):
        assert tensor.device.type == "cpu" and tensor.is_pinned() == (device.type == "cuda")
    assert all(view.dtype == torch.uint8 for view in batch.views)  # a quarter of the bytes of float32
    with not_waiting(device):
        moved = batch.to(device, non_blocking=True)
    for there, here in zip((*moved.views, moved.params), (*expected.views, expected.params), strict=True):
        assert there.device.type == device.type
        assert torch.equal(there.cpu(), here)
