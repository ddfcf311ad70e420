"""Layers whose gradients are wrong in reduced precision end a run before its first step; right ones don't."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import timm
import torch
from torch import Tensor, nn

from runs import command, tiny
from star_training.cli.main import main
from star_training.numerics import small_maps
from star_training.numerics.precision import Wrong, describe, wrong_layers
from star_training.pretraining.run import Run


@pytest.fixture(autouse=True)
def other_precision() -> Iterator[None]:
    """Accelerate keeps one precision for a process."""
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)


class _Faulty(torch.autograd.Function):
    """The identity of a weight; its gradient is spoilt where the backward pass belongs to bfloat16."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, spoil: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.spoil = spoil if torch.is_autocast_enabled("cpu") else torch.clone
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.spoil(gradient), None


def unwritten_row(gradient: Tensor) -> Tensor:
    """Right but for one output channel, which nothing is written to."""
    spoilt = torch.empty_like(gradient)
    spoilt[1:] = gradient[1:]
    return spoilt


class FaultyConv2d(nn.Conv2d):
    spoil: Callable[[Tensor], Tensor] = staticmethod(torch.clone)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, _Faulty.apply(self.weight, type(self).spoil), self.bias)


def network(kind: type[nn.Conv2d]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), kind(16, 32, 3, padding=1), nn.Flatten()
    )


SPOILT = {
    "zeros": torch.zeros_like,
    "not a number": lambda g: torch.where(g > g.mean(), g, torch.nan),
    "huge": lambda g: g * 1e31,
    "of another size": lambda g: g * 1.2,
    "of other places": lambda g: g.flip(0),
    "unwritten": unwritten_row,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_wrong_gradient_is_found(spoil: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch):
    images = torch.randn(4, 3, 16, 16)
    net = network(FaultyConv2d)
    assert wrong_layers(net, lambda: net(images).square().sum(), "bf16") == []
    monkeypatch.setattr(FaultyConv2d, "spoil", staticmethod(spoil))
    (wrong,) = wrong_layers(net, lambda: net(images).square().sum(), "bf16")
    assert wrong.name == "3" and wrong.kind.startswith("FaultyConv2d(16, 32,") and wrong.shape == [4, 16, 14, 14]
    assert wrong.difference > 0.1


def test_a_copy_that_is_not_trained_hides_no_wrong_gradient(monkeypatch: pytest.MonkeyPatch):
    """As momentum copies, which some objectives run first."""
    images, copied, net = torch.randn(4, 3, 16, 16), network(FaultyConv2d).requires_grad_(False), network(FaultyConv2d)
    monkeypatch.setattr(FaultyConv2d, "spoil", staticmethod(torch.zeros_like))
    both = nn.ModuleList([copied, net])
    (wrong,) = wrong_layers(both, lambda: (copied(images) - net(images)).square().sum(), "bf16")
    assert wrong.name == "1.3"


@pytest.mark.parametrize(
    ("name", "size"), [("test_resnet", 16), ("test_convnext", 96), ("test_vit", 160), ("test_efficientnet", 48)]
)
def test_right_layers_pass_and_nothing_changes(name: str, size: int):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3, drop_rate=0.5, drop_path_rate=0.5).train()
    small_maps.use(net)  # as in every run: otherwise the stride of test_resnet's 1x1 maps is a fault of torch's
    net.blocks[0].eval() if hasattr(net, "blocks") else net.eval()
    modes = [m.training for m in net.modules()]
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    assert wrong_layers(net, lambda: net(torch.randn(4, 3, size, size)).sum(), "bf16") == []
    assert [k for k, v in net.state_dict().items() if not torch.equal(v, before[k])] == []
    assert torch.equal(torch.get_rng_state(), state) and [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())


def test_a_run_with_a_wrong_gradient_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    original = nn.Conv2d.forward

    def forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
        if layer.stride == (1, 1):
            return original(layer, x)
        return layer._conv_forward(x, _Faulty.apply(layer.weight, torch.zeros_like), layer.bias)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    assert main(command(tmp_path / "run", settings=("precision=bf16",))) == 1
    line = capsys.readouterr().err.strip()
    assert "\n" not in line and not (tmp_path / "run").exists()
    assert "bf16 gradients of encoder.backbone." in line and "of their size" in line and "--set precision=no" in line
    accelerate.state.AcceleratorState._reset_state(True)
    Run(tiny("epochs=1", "run.eval_every=0"), tmp_path / "run")  # in float32 nothing is wrong


def test_the_known_fault_is_called_by_its_name():
    wrong = Wrong("backbone.layer4.0.conv1", str(nn.Conv2d(8, 8, 3, 2, 1)), [12, 8, 1, 1], 3.4e31)
    line = describe([wrong, wrong], "bf16", "cpu")
    assert "on [12, 8, 1, 1], differ from float32's by 3.4e+31 of their size (and 1 other layers) on this CPU" in line
    assert "known fault of torch's strided convolutions" in line and line.endswith(
        "--set precision=no or larger images"
    )
    assert "known" not in describe([wrong._replace(shape=[12, 8, 2, 2])], "bf16", "cpu")
