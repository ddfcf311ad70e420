"""The limits that steps are compared with, the backbone alone and the roofline: their multiply-adds are exact."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from star_training.benchmarks.pretrain import (
    backbone_alone,
    roofline,
)
from star_training.benchmarks.pretrain.ours import Ours
from star_training.benchmarks.pretrain.rounds import take_turns
from star_training.benchmarks.pretrain.sizes import Size, policy, recipe, write_images
from star_training.pretraining.run import Run
from star_zoo import objectives
from twins import randn

S = 32
SMALL = Size("test_resnet", S, 4, 2, None, False, 1)
LARGE = Size("test_resnet", S, 4, 2, 5, True, 1)


def test_multiply_adds_of_the_heads_are_those_of_their_formulas():
    backbone_width, experts, made = 24, 5, policy(LARGE)
    objective = objectives.build("star", backbone_width, made, num_experts=experts).train()
    found = backbone_alone.head_multiply_adds(objective)
    expert = 2 * backbone_width**2 + backbone_width * 128
    view = experts * expert + 2 * experts * backbone_width + 2 * experts * 128
    shift = len(made.fields) * 128 + 256 * 512 + 512 * 512 + 512 * 128
    assert found == 3 * view + 2 * shift
    assert objective.training


def test_the_backbone_alone_takes_its_passes_and_the_heads_at_the_products_rate(monkeypatch):
    backbone = timm.create_model("test_resnet", num_classes=0)
    before = [p.detach().clone() for p in backbone.parameters()]
    made = backbone_alone.BackboneAlone(backbone, 7, batch=2, pixels=S, precision="no")
    made.seconds(1)
    assert made.rates[0] > 1e8  # a processor that does less is none
    monkeypatch.setattr(backbone_alone, "product_rate", lambda dtype, device: 7 * 2 * 3 / 1000)  # a step of 1000 s
    start = time.perf_counter()
    found = made.seconds(3)
    assert 3000 < found <= 3000 + time.perf_counter() - start
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))
    assert all(p.grad is None for p in backbone.parameters())


def test_multiply_adds_are_those_of_each_product_and_its_two_gradients():
    b, wide, narrow, classes, side, kernel = 2, 4, 5, 7, 8, 3
    out = side - kernel + 1
    first, second = nn.Conv2d(3, wide, kernel), nn.Conv2d(wide, narrow, 1, stride=2)
    linear = nn.Linear(narrow * (out // 2) ** 2, classes)
    images = randn(b, 3, side, side)

    def step() -> None:
        linear(second(first(images).relu()).relu().flatten(1)).sum().backward()

    of_first = b * out**2 * wide * 3 * kernel**2
    of_second = b * (out // 2) ** 2 * narrow * wide
    of_linear = b * (out // 2) ** 2 * narrow * classes
    # nobody needs the gradient of the images
    assert roofline.multiply_adds(step) == 2 * of_first + 3 * of_second + 3 * of_linear
    images.requires_grad_()
    assert roofline.multiply_adds(step) == 3 * (of_first + of_second + of_linear)


def test_the_roofline_has_the_multiply_adds_of_three_passes_and_of_the_loss(tmp_path: Path):
    write_images(SMALL, tmp_path / "images")
    batch, run = SMALL.batch, Run(recipe("tiny", SMALL, tmp_path / "images", 0, "no"), tmp_path / "run")
    with Ours(run) as ours:
        found = roofline.Roofline(ours, "no").multiply_adds
    backbone, objective = run.pretrainer.backbone, run.pretrainer.objective
    images = randn(batch, 3, S, S)
    stem: Any = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    of_images = stem(images)[0, 0].numel() * stem.weight.numel()
    of_params = len(objective.policy.fields) * 128
    forward = 3 * roofline.multiply_adds(lambda: backbone(images)) // batch
    forward += backbone_alone.head_multiply_adds(objective)
    similarities = (2 * batch) ** 2 * 128 + (4 * batch) ** 2 * 128  # of one pair of embeddings, and of two
    # nobody needs the gradients of three views' images and of two views' params
    needed = 3 * forward - 3 * of_images - 2 * of_params - 3 * padding_alone(backbone, images[:1])
    assert found == batch * needed + 3 * similarities


def padding_alone(backbone: nn.Module, image: Tensor) -> int:
    """The multiply-adds in gradients of weights on maps of at most nine pixels, of taps that meet padding alone."""
    found = []

    def note(layer: Any, inputs: Any, output: Tensor) -> None:
        n, m, (taps, _), (stride, _), (padding, _) = (
            inputs[0].shape[-1], output.shape[-1], layer.kernel_size, layer.stride, layer.padding,
        )  # fmt: skip
        met = [any(0 <= out * stride - padding + tap < n for out in range(m)) for tap in range(taps)]
        if m * m <= 9:
            found.append(m * m * (taps**2 - sum(met) ** 2) * layer.weight[:, :, 0, 0].numel())

    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    backbone.eval()(image)
    assert sum(found) > 0
    return sum(found)


def test_the_roofline_takes_the_best_rate_beside_the_steps_of_a_round(monkeypatch):
    rates = iter([9.0, 9.0, 2.0, 4.0, 8.0, 1.0])  # before and after each turn; the first turn is the warm-up
    monkeypatch.setattr(roofline, "product_rate", lambda dtype, device: next(rates))
    run = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")))
    a, b = randn(3, 4), randn(4, 5)
    made = roofline.Roofline(SimpleNamespace(run=run, step=lambda: a @ b, seconds=lambda steps: 5.0 * steps), "no")
    assert made.multiply_adds == 3 * 4 * 5
    seconds = take_turns([made], 2, 7)
    assert made.beside(seconds, 7) == [{"ours": 35, "roofline": 7 * 60 / rate} for rate in (4, 8)]
