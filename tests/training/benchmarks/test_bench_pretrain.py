"""The benchmark of the pretraining step: its twin computes the same loss, its clock and its counts tell the truth."""

import copy
import json
import math
import multiprocessing
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
from star_training.benchmarks.pretrain import (
    SIZES,
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
from star_training.benchmarks.pretrain.sizes import PHOTO, Size, policy, write_images
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


def test_time_is_attributed_to_the_part_that_takes_it(tmp_path: Path, monkeypatch):
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
            parts = ours.parts(1)
            handle.remove()
            assert hands[0] > before
            assert {part: seconds for part, seconds in parts.items() if seconds} == {place: hands[0] - before}
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
    turns: list[str] = []

    def variant(name: str, *each: float) -> SimpleNamespace:
        left = iter((0.0, *each))

        def seconds(steps: int) -> float:
            turns.append(f"{name}{steps}")
            return next(left)

        return SimpleNamespace(name=name, seconds=seconds)

    found = take_turns([variant("a", 1, 2, 9), variant("b", 2, 6, 9), variant("c", 1, 1, 1)], 3, 5)
    assert turns == ["a1", "b1", "c1", "a5", "b5", "c5", "b5", "c5", "a5", "c5", "a5", "b5"]
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
    measured = found["sizes"]["tiny"]
    assert [list(each) for each in measured["seconds"]] == [
        ["ours", "released style", "backbone alone", "roofline"],
        ["released style", "backbone alone", "ours", "roofline"],
    ]
    for name, above in (
        ("share of the roofline", "roofline"),
        ("times the backbone alone", "backbone alone"),
        ("times the released style", "released style"),
    ):
        ratios = sorted(each[above] / each["ours"] for each in measured["seconds"])
        assert measured[name] == pytest.approx({"median": sum(ratios) / 2, "least": ratios[0], "most": ratios[1]})
    rates = [steps * size.batch / each["ours"] for each in measured["seconds"]]
    assert measured["samples per second"]["ours"] == pytest.approx(sum(rates) / 2)
    assert tuple(measured["parts"]) == PARTS
    kept = measured["saved for backward"]
    features = 3 * size.batch * 4 * timm.create_model(size.backbone, num_classes=0).num_features
    assert kept["released style"] > features
    # in bfloat16 the weights' copies outweigh what is saved of so few images
    assert kept["ours"] == pytest.approx(kept["released style"], rel=0.2) or (changes and kept["ours"] > features)
    assert len(measured["multiply-adds per second"]) == 3  # one before the rounds
    bound = measured["roofline"]
    share = measured["share of the roofline"]
    assert share["least"] > 0 and share["most"] < 1.05
    for each, rate in zip(measured["seconds"], bound["multiply-adds per second"], strict=True):
        assert each["roofline"] == pytest.approx(steps * size.batch * bound["multiply-adds a sample"] / rate)
    rates = sorted(rate / bound["multiply-adds a sample"] for rate in bound["multiply-adds per second"])
    assert measured["samples per second"]["roofline"] == pytest.approx(sum(rates) / 2)

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
