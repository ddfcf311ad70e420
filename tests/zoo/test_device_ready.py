"""What a GPU would notice, shown on a CPU: one graph for the compiler, no waiting for the device, few kernels."""

import dataclasses
from pathlib import Path

import pytest
import torch

from runs import tiny, tiny_with
from star_training.pretraining.module import Pretrainer, build
from star_training.pretraining.run import Run
from star_zoo import Batch, groups, objectives
from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip, Grayscale, Policy
from star_zoo.symmetry import projections
from twins import NUM_FEATURES, HostCalls, Kernels, Pooled, Turning, every_operation, photos, randn

# each of these makes the processor wait until the device has computed a number
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.masked_select", "aten.item", "aten.equal")
PHOTOS = Policy((Crop(32), Flip(), ColorJitter(), Grayscale(), Blur(5)), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def batch(pretrainer: Pretrainer, count: int = 8) -> Batch:
    """Views of made-up photos."""
    policy = pretrainer.objective.policy
    generator = torch.Generator().manual_seed(0)
    params = torch.stack([pretrainer.objective.plan(40, 50, generator) for _ in range(count)])
    pairs = zip(photos(count, 40, 50), params, strict=True)
    views = torch.stack([torch.stack([policy.crop(image, p) for p in own]) for image, own in pairs])
    sizes = torch.tensor([[40, 50]] * count)
    targets = torch.arange(count) % 2
    return Batch(list(views.unbind(1)), list(params.unbind(1)), torch.arange(count), sizes, targets)


def left_out(name: str) -> bool:
    """Whether an objective's forward pass is decorated by torch.compiler.disable."""
    return getattr(objectives.find(name).forward, "_torchdynamo_disable", False)


# few augmentations, because another test traces all of them
FEW = dataclasses.replace(PHOTOS, augmentations=(Crop(32), Flip()))


def small(name: str, policy: Policy = FEW) -> Pretrainer:
    """An objective with the smallest backbone."""
    objective = objectives.build(name, NUM_FEATURES, policy)
    pretrainer = Pretrainer(Turning() if objective.needs_group else Pooled(), objective)
    pretrainer.objective.attach(pretrainer.encoder)
    return pretrainer


@pytest.mark.slow
def test_all_augmentations_and_a_real_backbone_are_one_graph():
    pretrainer, _ = build(dataclasses.replace(tiny(), policy=PHOTOS))
    torch._dynamo.reset()
    found = torch._dynamo.explain(pretrainer)(batch(pretrainer))
    assert found.graph_break_count == 0 and found.graph_count == 1, found.break_reasons


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in objectives.known() if not left_out(n)])
def test_the_whole_forward_is_one_graph(name: str):
    pretrainer = small(name)
    torch._dynamo.reset()
    found = torch._dynamo.explain(pretrainer)(batch(pretrainer))
    assert found.graph_break_count == 0, found.break_reasons
    assert found.graph_count == 1


@pytest.mark.parametrize("name", objectives.known())
def test_a_step_waits_for_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Run, "try_export", lambda run: None)  # which takes longer than the step
    run = Run(tiny_with(name, "optimizer.name=momentum", "optimizer.clip=1"), tmp_path)
    run.module.train()
    ready = list(run.batches(range(2)))
    with Kernels() as kernels, HostCalls() as calls:
        run._train_step(iter(ready))
    run.logbook.close()
    assert len(kernels.names) > 100
    assert calls.names == []
    assert [kernel for kernel in kernels.names if kernel.startswith(WAITS)] == []


@pytest.mark.parametrize("name", objectives.known())
def test_a_loss_under_every_augmentation_waits_for_nothing(name: str):
    pretrainer = small(name, every_operation(32))
    views = batch(pretrainer)
    with HostCalls() as calls:
        pretrainer(views)["loss"].backward()
    assert calls.names == []


@pytest.mark.parametrize("group", [groups.C4, groups.D4], ids=lambda group: group.name)
def test_group_actions_wait_for_nothing(group: groups.Group):
    z = randn(3, 5, group.order)
    with HostCalls() as calls:
        group.act_on_features(z, 3)
        group.act_on_maps(randn(3, group.order, 4, 4), 1)
        projections.cross_section(group, z)
    assert calls.names == []


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x.new_tensor([1.0]),
        lambda x: x[[0, 1]],
        lambda x: x.cpu(),
        lambda x: bool(x[0, 0]),
    ],
)
def test_waiting_is_noticed(call):
    x = randn(3, 3)
    with HostCalls() as calls:
        call(x)
    assert len(calls.names) == 1


def test_a_step_takes_as_many_kernels_whatever_the_number_of_experts_and_images():
    def kernels(experts: int, images: int) -> list[str]:
        recipe = dataclasses.replace(tiny(f"objective_args.num_experts={experts}"), policy=PHOTOS)
        pretrainer, _ = build(recipe)
        views = batch(pretrainer, images)
        with Kernels() as counted:
            pretrainer(views)["loss"].backward()
        return counted.names

    assert kernels(2, 4) == kernels(9, 6)
