"""The choice of a precision: by the hardware, by timings, and by a trial that leaves everything as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from star_training.numerics import choice, processor
from star_training.numerics.choice import Choice, enough, faster, step_seconds, suggested, tried
from star_training.settings.common import PRECISIONS
from star_zoo.momentum import Queue

CPU, GPU = torch.device("cpu"), torch.device("cuda")
INTEL = ["flags\t\t: fpu avx512f avx512_bf16 amx_tile", "model name\t: Intel(R) Xeon(R)"]
ARM = ["CPU part\t: 0xd40", "Features\t: fp asimd i8mm bf16"]
AMD = ["flags\t\t: fpu avx2 f16c", "model name\t: a bf16 processor"]  # whose name has no meaning


class Net(nn.Module):
    """A network with noise, statistics and a queue, which a step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten())
        self.linear = nn.Linear(8 * 36, 5)
        self.queue = Queue(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        made = self.linear(self.layers(images))
        self.queue.push(made)
        return made.float().square().mean()


def trial_of(net: nn.Module, asked: list[int]) -> Callable[[int], Callable[[], Tensor]]:
    def trial(images: int) -> Callable[[], Tensor]:
        asked.append(images)
        batch = torch.ones(images, 3, 8, 8)
        return lambda: net(batch)

    return trial


@pytest.mark.parametrize(("lines", "listed"), [(INTEL, True), (ARM, True), (AMD, False), (["x86_64", ""], False)])
def test_a_cpu_is_tried_only_if_it_lists_bf16(lines: list[str], listed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processor, "describe", lambda: lines)
    assert suggested(CPU, PRECISIONS).precision == ("bf16" if listed else "no")
    if not listed:
        assert suggested(CPU, PRECISIONS).why == "this CPU has no bf16 instructions"


@pytest.mark.parametrize(
    ("bf16", "major", "known", "expected"),
    [(True, 8, PRECISIONS, "bf16"), (False, 7, PRECISIONS, "fp16"), (False, 7, ("no", "bf16"), "no"),
     (False, 6, PRECISIONS, "no")],
)  # fmt: skip
def test_a_gpu_gets_bf16_else_fp16_if_it_has_tensor_cores(
    bf16: bool, major: int, known: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
):
    def supported(including_emulation: bool = True) -> bool:
        return bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert suggested(GPU, known).precision == expected


@pytest.mark.parametrize(
    ("float32", "bf16", "expected"),
    [
        (2.0, 1.0, Choice("bf16", "64 images/s against 32 in float32")),
        (1.06, 1.0, Choice("bf16", "64 images/s against 60.4 in float32")),
        (1.05, 1.0, Choice("no", "61 images/s against 64 in bf16")),  # no clear margin
        (1.0, 1.0, Choice("no", "64 images/s against 64 in bf16")),
        (1.0, 40.0, Choice("no", "64 images/s against 1.6 in bf16")),
    ],
)
def test_bf16_must_be_faster_by_a_clear_margin(float32: float, bf16: float, expected: Choice):
    assert faster({"no": float32, "bf16": bf16}, "bf16", 64) == expected


@pytest.mark.parametrize(
    ("most", "expected", "asked"), [(64, 16, [4, 8, 16]), (10, 10, [4, 8]), (4, 4, []), (2, 4, [])]
)
def test_the_images_of_a_check_are_doubled_until_batch_norm_has_enough(most: int, expected: int, asked: list[int]):
    """Every eighth image alone has one value per channel, unless there are two of them."""
    net, tried_with = nn.BatchNorm1d(5).eval(), []
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()

    def trial(images: int) -> Callable[[], Tensor]:
        tried_with.append(images)
        return lambda: net(torch.randn(images, 5)[::8]).sum()

    assert enough(net, trial, "bf16", 4, most) == expected and tried_with == asked
    assert [k for k, v in net.state_dict().items() if not torch.equal(v, before[k])] == []
    assert torch.equal(torch.get_rng_state(), state) and not net.training


def test_a_trial_times_both_in_turns_and_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    net = Net().eval()
    net.layers[1].train()
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    steps, original = [], choice._step
    monkeypatch.setattr(choice, "_step", lambda *given: steps.append(given[-1]) or original(*given))
    batches: list[int] = []
    found = tried(net, trial_of(net, batches), Choice("bf16", ""), 16, 4)
    assert found.precision in ("no", "bf16") and " images/s against " in found.why
    assert batches == [4, 16] and steps == ["no", "bf16"] * 4  # the first two warm up
    assert [k for k, v in net.state_dict().items() if not torch.equal(v, before[k])] == []
    assert torch.equal(torch.get_rng_state(), state) and [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())


def test_steps_are_computed_in_their_precision_and_the_least_time_counts(monkeypatch: pytest.MonkeyPatch):
    net, dtypes = Net(), []
    net.linear.register_forward_hook(lambda layer, inputs, made: dtypes.append(made.dtype))
    clock = iter([0, 2, 0, 2, 0, 5, 0, 3, 0, 4, 0, 7, 0, 6, 0, 8])
    monkeypatch.setattr(choice.time, "perf_counter", lambda: float(next(clock)))
    assert step_seconds(net, lambda: net(torch.ones(4, 3, 8, 8)), "bf16") == {"no": 4.0, "bf16": 3.0}
    assert dtypes == [torch.float32, torch.bfloat16] * 4


def test_slow_steps_are_timed_once(monkeypatch: pytest.MonkeyPatch):
    steps: list[str] = []
    monkeypatch.setattr(choice, "_step", lambda *given: steps.append(given[-1]) or 6.0)
    step_seconds(Net(), lambda: torch.zeros(()), "bf16")
    assert steps == ["no", "bf16"] * 2


class _Wrong(torch.autograd.Function):
    """The identity, whose gradient is zero within autocast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.wrong = torch.is_autocast_enabled("cpu")
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * (not ctx.wrong)


class WrongLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, _Wrong.apply(self.weight), self.bias)


def test_wrong_gradients_end_the_trial_before_a_step_is_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "step_seconds", None)
    net = Net()
    net.linear = WrongLinear(8 * 36, 5)
    expected = Choice("no", "bf16 gradients of linear are wrong on this device")
    assert tried(net, trial_of(net, []), Choice("bf16", ""), 16, 4) == expected


def test_a_module_that_bf16_can_not_compute_stays_in_float32():
    net = Net()

    def trial(images: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("\"svd\" not implemented for\n'BFloat16'")
            return net(torch.ones(images, 3, 8, 8))

        return loss

    assert enough(net, trial, "bf16", 4, 16) == 4
    found = tried(net, trial, Choice("bf16", ""), 16, 4)
    assert found.precision == "no" and found.why.startswith("bf16 failed: ") and "\n" not in found.why


@pytest.mark.parametrize(
    ("precision", "has", "warned"), [("bf16", False, True), ("bf16", True, False), ("no", False, False)]
)
def test_a_fixed_precision_that_is_emulated_is_reported(precision: str, has: bool, warned: bool, monkeypatch):
    monkeypatch.setattr(processor, "has_bf16", lambda: has)
    assert ("--set precision=no" in choice.emulated(precision, torch.device("cpu"))) == warned
    assert choice.emulated(precision, torch.device("meta")) == ""
