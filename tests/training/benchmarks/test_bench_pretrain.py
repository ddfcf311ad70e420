"""The benchmark of the pretraining step: its twin computes the same loss, its clock and its counts tell the truth."""

import copy
import json
import math
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.transforms.functional import to_pil_image

from metronome import Metronome
from runs import STEPS, assert_equal, tiny
from star_training import benchmarks
from star_training.benchmarks import imports
from star_training.benchmarks.pretrain import (
    SIZES,
    backbone_alone,
    clock,
    elsewhere,
    released_views,
    roofline,
)
from star_training.benchmarks.pretrain.clock import PARTS
from star_training.benchmarks.pretrain.memory import saved_bytes
from star_training.benchmarks.pretrain.ours import Ours
from star_training.benchmarks.pretrain.released_style import Network
from star_training.benchmarks.pretrain.rounds import ratio, take_turns
from star_training.benchmarks.pretrain.sizes import PHOTO, Size, policy, recipe, write_images
from star_training.cli.main import main
from star_training.data import open_source
from star_training.data.cached import CachedSource
from star_training.data.lazy import StreamedSource
from star_training.pretraining.module import Pretrainer
from star_training.pretraining.run import Run
from star_zoo import Batch, Policy, objectives, released
from twins import generator, photos, randn

B, E, S = 6, 3, 32
SMALL = Size("test_resnet", S, 4, 2, None, False, 1)
LARGE = Size("test_resnet", S, 4, 2, 5, True, 1)


@pytest.fixture(autouse=True)
def same_weights_every_time():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def params_of(made: Policy, count: int) -> Tensor:
    """Rows of three views of as many images: (B, 3, P)."""
    g = generator(1)
    return torch.stack([torch.stack([made.base(S, S), made.draw(S, S, g), made.draw(S, S, g)]) for _ in range(count)])


# --- the twin


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_twin_has_the_loss_and_every_gradient_of_star(size: Size):
    made = policy(size)
    backbone = timm.create_model(size.backbone, num_classes=0)
    objective = objectives.build("star", backbone.num_features, made, num_experts=E)
    twin = Network(copy.deepcopy(backbone), backbone.num_features, E, made.field_statistics)
    for group, tensors in released.to_released(backbone.state_dict(), objective.state_dict()).items():
        getattr(twin, group).load_state_dict(tensors)

    pretrainer, params = Pretrainer(backbone, objective).train(), params_of(made, B)
    images = photos(3 * B, S, S).unflatten(0, (B, 3))
    index, sizes = torch.arange(B), torch.full((B, 2), S)
    loss = pretrainer(Batch(list(images.unbind(1)), list(params.unbind(1)), index, sizes))["loss"]
    views = [made.apply(images[:, v], params[:, v]) for v in range(3)]
    theirs = twin.train()(views, [params[:, 1], params[:, 2]])
    assert_close(theirs, loss)

    loss.backward()
    theirs.backward()
    ours = released.to_released(*(with_gradients(module) for module in (backbone, objective)))
    names = [f"{group}.{name}" for group, tensors in ours.items() for name in tensors]
    parameters = dict(twin.named_parameters())
    assert set(parameters) <= set(names) and len(parameters) > 6 * E
    for name, parameter in parameters.items():
        group, _, rest = name.partition(".")
        assert parameter.grad is not None
        assert_close(parameter.grad, ours[group][rest], rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


def with_gradients(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in which parameters are replaced by their gradients."""
    return module.state_dict() | {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_twin_changes_colours_as_the_policy_does(size: Size):
    made, images = policy(size), photos(40, S, S)
    drawn = released_views.draw(40, size.blur is not None, torch.device("cpu"))
    params = drawn.params(torch.zeros(40, 4))
    assert params.shape[1] == len(made.fields)
    found = released_views.augmented(images / 255, drawn, [0, 1, 2, 3], size.blur)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (made.mean, made.std))
    assert_close((found - mean) / std, made.apply(images, params), rtol=0, atol=1e-4)
    assert (found - images / 255).abs().flatten(1).amax(1).gt(0).sum() > 30
    other = released_views.augmented(images / 255, drawn, [3, 2, 1, 0], size.blur)
    assert (found - other).abs().max() > 0.05


def test_the_twin_draws_from_the_policys_ranges():
    drawn = released_views.draw(4000, True, torch.device("cpu"))
    mean, std = policy(LARGE).field_statistics
    params = drawn.params(torch.zeros(4000, 4))[:, 4:]
    error = (params.mean(0) - mean[4:]) / std[4:]
    assert error.abs().max() < 5 * math.sqrt(2 / 4000)
    assert_close(params.std(0), std[4:], rtol=0.1, atol=0)


def test_the_twin_crops_as_the_policy_does():
    made, pixels = policy(SMALL), photos(1, 45, 60)[0]
    whole, first, second, *boxes = released_views.Crops([to_pil_image(pixels)], S)[0]
    for view, box in zip((first, second), boxes, strict=True):
        top, left, height, width = box.tolist()
        assert 0 <= top <= 45 - height and 0 <= left <= 60 - width
        expected = made.crop(pixels, torch.cat([box, torch.zeros(6)]))
        assert (255 * view - expected).abs().max() <= 2  # PIL rounds between rows and columns
    assert whole.shape == (3, S, S)
    square = photos(1, S, S)[0]
    assert_close(
        255 * released_views.Crops([to_pil_image(square)], S)[0][0], made.crop(square, made.base(S, S)).float()
    )


# --- the real step


def test_timed_steps_are_those_of_a_run_to_the_last_bit(tmp_path: Path):
    recipe = tiny("run.eval_every=0", "backbone_args.drop_rate=0.2")
    whole = Run(recipe, tmp_path / "whole")
    whole.train()
    with Ours(Run(recipe, tmp_path / "timed")) as ours:
        assert ours.seconds(3) > 0
        parts = ours.parts(2)
        assert ours.seconds(STEPS - 5) > 0
    assert tuple(parts) == PARTS and min(parts.values()) > 0
    assert_equal(dict(ours.run.pretrainer.state_dict()), dict(whole.pretrainer.state_dict()))


def test_time_is_told_of_the_part_that_it_goes_to(tmp_path: Path, monkeypatch):
    hands = [0.0]  # of a clock that only `delay` moves
    monkeypatch.setattr(clock, "now", lambda device: hands[0])

    def delay(*arguments: Any) -> None:
        hands[0] += 1

    with Ours(Run(tiny("run.eval_every=0"), tmp_path / "run")) as ours:
        ours.seconds(1)
        pretrainer, optimizer = ours.run.pretrainer, ours.run.optimizer.optimizer
        backbone, objective = pretrainer.backbone, pretrainer.objective
        first, last = next(backbone.parameters()), next(objective.heads.parameters())
        places: dict[str, Callable[[], Any]] = {
            "augmentation": lambda: pretrainer.register_forward_pre_hook(delay),
            "backbone forward": lambda: backbone.register_forward_hook(delay),
            "heads and loss forward": lambda: objective.heads.register_forward_hook(delay),
            "heads and loss backward": lambda: last.register_post_accumulate_grad_hook(delay),
            "backbone backward": lambda: first.register_post_accumulate_grad_hook(delay),
            "optimiser": lambda: optimizer.register_step_post_hook(delay),
        }
        for place, register in places.items():
            handle = register()
            before = hands[0]
            told = ours.parts(1)
            handle.remove()
            assert hands[0] > before
            assert {part: seconds for part, seconds in told.items() if seconds} == {place: hands[0] - before}
        ours.batches = (delay() or batch for batch in ours.batches)
        assert {part: seconds for part, seconds in ours.parts(1).items() if seconds} == {"data": 1}


@pytest.mark.parametrize(("size", "kind"), [(SMALL, CachedSource), (LARGE, StreamedSource)])
def test_small_images_are_kept_and_photos_are_decoded_on_access(tmp_path: Path, size: Size, kind: type):
    files = write_images(size, tmp_path / "images")
    source = open_source(str(tmp_path / "images"))
    assert isinstance(source, kind)
    assert len(source) == len(files) >= 4 * size.batch
    width, height = PHOTO if size.photos else (S, S)
    assert source[0].shape == (3, height, width)
    assert not torch.equal(source[0], source[1])
    if size.photos:
        assert 60_000 < files[0].stat().st_size < 140_000  # ImageNet's photos of this size have about 100 kB


# --- the backbone alone


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


# --- the roofline


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
    told = iter([9.0, 9.0, 2.0, 4.0, 8.0, 1.0])  # before and after each turn; the first turn is the warm-up
    monkeypatch.setattr(roofline, "product_rate", lambda dtype, device: next(told))
    run = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")))
    a, b = randn(3, 4), randn(4, 5)
    made = roofline.Roofline(SimpleNamespace(run=run, step=lambda: a @ b, seconds=lambda steps: 5.0 * steps), "no")
    assert made.multiply_adds == 3 * 4 * 5
    seconds = take_turns([made], 2, 7)
    assert made.beside(seconds, 7) == [{"ours": 35, "roofline": 7 * 60 / rate} for rate in (4, 8)]


# --- bytes


def test_saved_bytes_are_those_of_each_storage_once():
    x, linear = randn(10, 4).requires_grad_(), nn.Linear(4, 3)
    assert saved_bytes(lambda: x.exp().sum(), []) == 10 * 4 * 4
    assert saved_bytes(lambda: (y := x.exp()) * y[:5].repeat(2, 1), []) == 2 * 10 * 4 * 4
    assert saved_bytes(lambda: (y := x.exp()) * y, []) == 10 * 4 * 4
    assert saved_bytes(lambda: linear(x).relu(), linear.parameters()) == (10 * 4 + 10 * 3) * 4
    assert saved_bytes(lambda: linear(x).relu(), []) == (10 * 4 + 10 * 3 + 4 * 3) * 4
    with torch.no_grad():
        assert saved_bytes(lambda: x.exp().sum(), []) == 0


# --- turns


def test_turns_rotate_and_ratios_are_within_rounds():
    told: list[str] = []

    def variant(name: str, *each: float) -> SimpleNamespace:
        left = iter((0.0, *each))

        def seconds(steps: int) -> float:
            told.append(f"{name}{steps}")
            return next(left)

        return SimpleNamespace(name=name, seconds=seconds)

    found = take_turns([variant("a", 1, 2, 9), variant("b", 2, 6, 9), variant("c", 1, 1, 1)], 3, 5)
    assert told == ["a1", "b1", "c1", "a5", "b5", "c5", "b5", "c5", "a5", "c5", "a5", "b5"]
    assert ratio(found, "b", "a") == {"median": 2, "least": 1, "most": 3}


# --- processes


def test_a_variant_elsewhere_answers_until_it_fails(capfd):
    with elsewhere.Elsewhere("metronome", Metronome, 0.5) as variant:
        assert variant.seconds(4) == 2 and variant.get("pace") == 0.5
        with pytest.raises(RuntimeError, match="the process that measures 'metronome' ended"):
            variant.seconds(-1)
    assert "steps is -1" in capfd.readouterr().err


# --- the command


def test_benchmarks_are_packages_too():
    assert {"imports", "pretrain"} <= set(benchmarks.known())
    assert not {"clock", "roofline", "released_style", "sizes"} & set(benchmarks.known())


def test_declaring_the_benchmarks_imports_nothing_heavy():
    program = "import sys, star_training.benchmarks.pretrain, star_training.benchmarks.imports; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "star_training.benchmarks.pretrain" in done.stdout.split()
    assert not {"accelerate", "matplotlib", "timm", "torch"} & set(done.stdout.split())


@pytest.fixture
def other_precision() -> Iterator[None]:
    """Accelerate keeps one precision for a process; within this, a run may have another."""
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.slow
@pytest.mark.usefixtures("other_precision")
@pytest.mark.parametrize(
    ("size", "steps", "changes"),
    [(SMALL, 2, []), (LARGE, 1, ["--precision", "bf16", "--workers", "1"])],  # bfloat16 may be emulated
    ids=["small", "large"],
)
def test_the_command_prints_and_records_all_of_it(
    size: Size, steps: int, changes: list[str], tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setitem(SIZES, "tiny", size)
    # a new Python would import everything for each variant
    monkeypatch.setattr(elsewhere, "_CONTEXT", multiprocessing.get_context("fork"))
    # where bfloat16 is emulated, larger products take seconds
    monkeypatch.setattr(roofline, "_SIDES", (256,))
    record, picture = tmp_path / "found.json", tmp_path / "parts.png"
    options = [
        "--size",
        "tiny",
        "--rounds",
        "2",
        "--steps",
        str(steps),
        "--out",
        str(record),
        "--picture",
        str(picture),
    ]
    assert main(["bench", "pretrain", *options, *changes]) == 0
    found = json.loads(record.read_text())
    assert found["machine"]["cores"] >= 1 and found["machine"]["cpu"] and found["machine"]["versions"]["timm"]
    told = found["sizes"]["tiny"]
    assert [list(each) for each in told["seconds"]] == [
        ["ours", "released style", "backbone alone", "roofline"],
        ["released style", "backbone alone", "ours", "roofline"],
    ]
    for name, above in (
        ("share of the roofline", "roofline"),
        ("times the backbone alone", "backbone alone"),
        ("times the released style", "released style"),
    ):
        ratios = sorted(each[above] / each["ours"] for each in told["seconds"])
        assert told[name] == pytest.approx({"median": sum(ratios) / 2, "least": ratios[0], "most": ratios[1]})
    rates = [steps * size.batch / each["ours"] for each in told["seconds"]]
    assert told["samples per second"]["ours"] == pytest.approx(sum(rates) / 2)
    assert tuple(told["parts"]) == PARTS
    kept = told["saved for backward"]
    features = 3 * size.batch * 4 * timm.create_model(size.backbone, num_classes=0).num_features
    assert kept["released style"] > features
    # in bfloat16 the weights' copies outweigh what is saved of so few images
    assert kept["ours"] == pytest.approx(kept["released style"], rel=0.2) or (changes and kept["ours"] > features)
    assert len(told["multiply-adds per second"]) == 3  # one before the rounds
    bound = told["roofline"]
    share = told["share of the roofline"]
    assert share["least"] > 0 and share["most"] < 1.05
    for each, rate in zip(told["seconds"], bound["multiply-adds per second"], strict=True):
        assert each["roofline"] == pytest.approx(steps * size.batch * bound["multiply-adds a sample"] / rate)
    rates = sorted(rate / bound["multiply-adds a sample"] for rate in bound["multiply-adds per second"])
    assert told["samples per second"]["roofline"] == pytest.approx(sum(rates) / 2)

    out = capsys.readouterr().out
    for line in (
        "samples/s",
        "share of the roofline",
        "times the backbone alone",
        "times the released style",
        *PARTS,
        "MiB in released style",
    ):
        assert line in out
    with Image.open(picture) as image:
        assert image.format == "PNG" and min(image.size) > 100


@pytest.mark.parametrize("option", ["rounds", "steps"])
def test_counts_that_measure_nothing_are_refused(option: str, capsys):
    assert main(["bench", "pretrain", f"--{option}", "0"]) == 1
    assert f"--{option} is 0; it must be at least 1" in capsys.readouterr().err


# --- imports


def test_both_ways_load_the_same_weights():
    file = imports.weights()
    loaded = [
        eval(load, {"timm": timm, "sys": SimpleNamespace(argv=["", str(file)])}) for load in imports._LOADS.values()
    ]
    assert_equal(*(dict(model.state_dict()) for model in loaded))


def test_the_first_round_is_dropped_and_the_order_alternates(monkeypatch, capsys):
    told: list[str] = []

    def measure(package: str, file: Path) -> dict[str, float]:
        told.append(package)
        once = {"timm": 100.0, "star_zoo": 1.0} if len(told) <= 2 else {"timm": 2.0, "star_zoo": 3.0}
        return {"import": once[package], "load": 2 * once[package]}

    monkeypatch.setattr(imports, "measure", measure)
    starts = iter([90.0, 91.0, 1.0, 4.0, 3.0, 5.0])  # the first round is dropped
    monkeypatch.setattr(imports, "start", lambda command: next(starts))
    found = imports.run(SimpleNamespace(rounds=2))
    assert told == ["timm", "star_zoo", "star_zoo", "timm", "timm", "star_zoo"]
    assert found["import"]["ratio"]["median"] == found["load"]["ratio"]["most"] == 1.5
    assert len(found["load"]["seconds"]) == 2
    assert found["commands"] == {"--help": [1.0, 3.0], "list": [4.0, 5.0]}
    out = capsys.readouterr().out
    assert "1.500 times as long" in out and "star-zoo list             4.500 s (4.000 to 5.000" in out


@pytest.mark.slow
def test_a_process_of_its_own_tells_its_seconds():
    seconds = imports.measure("star_zoo", imports.weights())
    assert seconds["import"] > seconds["load"] > 0
    assert imports.start("--help") < seconds["import"]
