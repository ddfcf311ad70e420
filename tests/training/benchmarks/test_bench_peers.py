"""The benchmark beside lightly and timm: all sides do the same work on the same folder, and wait for their turns.

Tests of lightly's side are skipped where lightly is not installed.
"""

import importlib.util
import json
import multiprocessing
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from metronome import Metronome
from star_training.benchmarks import peers
from star_training.benchmarks.peers import compare, sizes
from star_training.benchmarks.peers import ours as with_star_zoo
from star_training.benchmarks.peers.resident import proportional
from star_training.benchmarks.peers.side import Side
from star_training.benchmarks.peers.sizes import SIZES, Size, register_backbones, write_images
from star_training.benchmarks.peers.with_timm import Timm
from star_training.benchmarks.pretrain import backbone_alone, elsewhere, roofline
from star_training.cli.main import main
from star_training.pretraining.module import build
from star_zoo import hub, save_pretrained
from star_zoo.losses import nt_xent
from twins import photos, randn

SMALL = Size("test_resnet", 32, 4, (40, 36), 24)
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files of timm's reader
with_lightly = pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="lightly is not installed")


@pytest.fixture
def no_lightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if lightly were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == "lightly" else find_spec(name, *of)
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(SMALL, tmp_path / "images", None)
    return tmp_path / "images"


# --- the same work


@with_lightly
@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_the_loss_and_its_gradients_are_lightlys(temperature: float):
    from lightly.loss import NTXentLoss

    def result(loss: Any) -> tuple[Tensor, ...]:
        pair = [randn(12, 8, seed=k).requires_grad_() for k in (1, 2)]
        value = loss(*pair)
        return value.detach(), *torch.autograd.grad(value, pair)

    ours = result(lambda a, b: nt_xent(a, b, temperature))
    theirs = result(NTXentLoss(temperature=temperature))
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other)


@with_lightly
@pytest.mark.parametrize("name", ["r18-32", "r18-96"])
def test_a_step_of_both_multiplies_as_often(name: str):
    from star_training.benchmarks.peers.with_lightly import Model

    register_backbones()
    size = SIZES[name]
    ours, _ = build(with_star_zoo.recipe(size, Path("images"), "no", 0))
    theirs = Model(timm.create_model(size.backbone, num_classes=0))

    def products(encode: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            sum(encode(randn(2, 3, size.pixels, size.pixels)) for _ in range(2)).sum().backward()
        return counter.get_total_flops()

    heads: Any = ours.objective.heads
    assert products(lambda x: heads(ours.backbone(x))) == products(theirs) > 1e8


def test_our_policy_has_the_common_probabilities_and_strengths():
    crop, flip, jitter, grey, blur = (
        vars(a) for a in with_star_zoo.recipe(SMALL, Path("images"), "no", 0).policy.augmentations
    )
    assert crop["scale"] == (0.08, 1.0) and flip["p"] == 0.5 and grey["p"] == 0.2
    assert [jitter[k] for k in ("brightness", "contrast", "saturation", "hue", "p")] == [0.4, 0.4, 0.4, 0.1, 0.8]
    assert (blur["p"], blur["sigma"]) == (0.5, (0.1, 2.0)) and blur["kernel"] // 2 >= 3 * 2.0


@with_lightly
def test_lightlys_transform_has_them_too():
    from star_training.benchmarks.peers.with_lightly import transform

    text = " ".join(str(step) for step in transform(32).transforms[0].transform.transforms)
    for part in ("size=(32, 32), scale=(0.08, 1.0)", "brightness=(0.6, 1.4)", "hue=(-0.1, 0.1)", "p=0.5", "p=0.2"):
        assert part in text.replace("[", "(").replace("]", ")"), text


@unclosed
def test_ours_and_timm_train_on_the_same_folder(images: Path, tmp_path: Path):
    ours = with_star_zoo.StarZoo(SMALL, images, tmp_path / "run", "no", 0)
    theirs = Timm(SMALL, images, "no", 0, channels_last=False)
    for side, count in ((ours, 2), (theirs, 1)):
        before = [p.detach().clone() for p in _module(side).parameters()]
        assert side.seconds(2) > 0
        assert side.views == [[4, 3, 32, 32]] * count
        assert side.parameters == sum(p.numel() for p in before) > 1e5
        moved = [not torch.equal(a, b) for a, b in zip(before, _module(side).parameters(), strict=True)]
        assert sum(moved) > 0.9 * len(moved)
    assert ours.run.recipe.batch_size == SMALL.batch and len(theirs.loader.dataset) == SMALL.files
    ours.__exit__()


def _module(side: Any) -> nn.Module:
    return side.run.module if isinstance(side, with_star_zoo.StarZoo) else side.model


def test_views_of_other_shapes_are_refused():
    shape = [4, 3, 32, 32]
    compare.check_views(SMALL, {"star_zoo": [shape] * 2, "lightly": [shape] * 2, "timm": [shape]})
    for wrong in ([shape], [shape, [4, 3, 16, 16]], [[2, 3, 32, 32]] * 2):
        with pytest.raises(ValueError, match="lightly trained on views of"):
            compare.check_views(SMALL, {"star_zoo": [shape] * 2, "lightly": wrong, "timm": [shape]})


# --- images and backbones


def test_the_stem_for_small_images_keeps_their_size_and_is_saved(tmp_path: Path):
    register_backbones()
    register_backbones()
    model = timm.create_model("resnet18_small", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962  # the known count of this network
    assert model.eval().forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    save_pretrained(tmp_path, model)
    hub.check(tmp_path)


def test_a_folder_holds_jpegs_of_each_class(images: Path):
    files = sorted(images.rglob("*.jpg"))
    assert len(files) == SMALL.files
    assert Counter(file.parent.name for file in files).keys() == {f"{k}" for k in range(sizes.CLASSES)}
    with Image.open(files[0]) as image:
        assert image.size == SMALL.picture and image.format == "JPEG"


def test_given_images_become_jpegs_of_the_size(tmp_path: Path):
    (tmp_path / "given").mkdir()
    for k, pixels in enumerate(photos(3, 50, 90)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "given" / f"{k}.png")
    write_images(SMALL, tmp_path / "images", tmp_path / "given")
    files = sorted((tmp_path / "images").rglob("*.jpg"))
    assert len(files) == SMALL.files and len({file.read_bytes() for file in files}) == 3


# --- processes


class Holding(Side):
    """Holds 64 MiB in itself, and its worker as many."""

    name, device = "holding", torch.device("cpu")

    def step(self) -> Tensor:
        self.held = torch.ones(2**24)
        return self.held[0]


def test_memory_is_that_of_the_process_and_its_workers():
    side = Holding()
    before = side.memory["resident"]
    side.seconds(1)
    assert side.memory["resident"] >= before  # a peak never falls
    program = "x = bytearray(b'1') * 2**26; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout and worker.stdin
        worker.stdout.readline()
        assert 2**26 < proportional(worker.pid) < 2**26 + 2**25
        worker.communicate("\n")


def test_a_peak_is_of_this_program_alone():
    """A large parent must not count, as it would in getrusage's maximum."""
    own = "from star_training.benchmarks.peers.resident import peak; print(peak())"
    program = f"import subprocess, sys; x = bytearray(b'1') * 2**28; subprocess.run([sys.executable, '-c', '{own}'])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2**28


def test_a_process_stands_still_outside_its_turns():
    with elsewhere.Elsewhere("metronome", Metronome, 0.5) as variant:
        variant.seconds(1)
        for _ in range(2):
            (child,) = multiprocessing.active_children()
            patience = time.monotonic() + 10
            while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "T":
                assert time.monotonic() < patience
                time.sleep(0.01)
            assert variant.seconds(4) == 2


# --- the command


def test_without_lightly_one_line_says_how_to_get_it(no_lightly, capsys):
    assert main(["bench", "peers"]) == 1
    assert capsys.readouterr().err.strip().endswith("pip install lightly")


@pytest.mark.parametrize(("option", "least"), [("rounds", 1), ("steps", 1), ("batch", 2)])
def test_counts_that_measure_nothing_are_refused(option: str, least: int, capsys):
    assert main(["bench", "peers", f"--{option}", "0"]) == 1
    assert f"--{option} is 0; it must be at least {least}" in capsys.readouterr().err


@with_lightly
@unclosed
@pytest.mark.slow
def test_the_command_prints_and_records_all_of_it(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setitem(SIZES, "tiny", SMALL)
    # a new Python would import everything for each side
    monkeypatch.setattr(elsewhere, "_CONTEXT", multiprocessing.get_context("fork"))
    record = tmp_path / "found.json"
    assert main(["bench", "peers", "--size", "tiny", "--rounds", "2", "--workers", "1", "--out", str(record)]) == 0
    written = json.loads(record.read_text())
    found = written["sizes"]["tiny"]
    assert written["machine"]["versions"]["lightly"].startswith("1.")
    assert [list(each) for each in found["seconds"]] == [
        ["star_zoo", "lightly", "timm"],
        ["lightly", "timm", "star_zoo"],
    ]
    for name, factor, other in (("times lightly", 1, "lightly"), ("times timm, by view", 2, "timm")):
        ratios = sorted(factor * each[other] / each["star_zoo"] for each in found["seconds"])
        assert found[name] == pytest.approx({"median": sum(ratios) / 2, "least": ratios[0], "most": ratios[1]})
    assert all(side["workers"] > 2**20 for side in found["memory"].values())
    shares = [found["memory"][side]["resident"] for side in ("star_zoo", "lightly")]
    assert found["memory of lightly"] == pytest.approx(shares[0] / shares[1])
    out = capsys.readouterr().out
    assert all(part in out for part in ("images/s", "times lightly", "times timm, by view", "memory of lightly's"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shares_of_the_peak_are_multiply_adds_over_seconds_and_rate(no_lightly, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setitem(SIZES, "tiny", SMALL)
    for module in (backbone_alone, roofline):
        monkeypatch.setattr(module, "product_rate", lambda dtype, device: 1e12)
    record = tmp_path / "found.json"
    few = ["--rounds", "1", "--steps", "2", "--precision", "no", "--workers", "0"]
    assert main(["bench", "device", "--size", "tiny", "--batch", "6", *few, "--out", str(record)]) == 0
    found = json.loads(record.read_text())["sizes"]["tiny"]
    with FlopCounterMode(display=False) as counter:
        timm.create_model("test_resnet", num_classes=0)(randn(12, 3, 32, 32)).sum().backward()
    counted = found["multiply-adds of a step"]
    assert counted["backbone alone"] == counter.get_total_flops() // 2
    assert counted["backbone alone"] < counted["star_zoo"] < 2 * counted["backbone alone"]
    for side, share in found["share of the peak"].items():
        assert share == pytest.approx(counted[side] / (found["seconds"][0][side] / 2) / 1e12)
        assert found["images per second"][side] == pytest.approx(6 / (found["seconds"][0][side] / 2))
    assert "images/s" in capsys.readouterr().out


def test_batches_that_do_not_match_the_sizes_are_refused(capsys):
    assert main(["bench", "device", "--batch", "4", "4"]) == 1
    assert "--batch has 2 numbers for 3 sizes; pass one for each size" in capsys.readouterr().err


def test_arguments_have_the_defaults_of_the_sizes():
    parser = ArgumentParser()
    peers.declare(parser)
    given = parser.parse_args([])
    assert given.batch is None and given.size == ["r18-32", "r18-96", "r50-224"]
