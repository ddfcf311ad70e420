"""The benchmark of the data path: both ways make the same kind of views, and the record holds what was printed."""

import io
import itertools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from star_training import benchmarks
from star_training.benchmarks.data import compare as bench
from star_training.cli.main import main


def test_it_is_found_by_name():
    assert benchmarks.find("data").__name__ == bench.__package__


def test_both_ways_are_timed_and_compared(tmp_path: Path, capsys, monkeypatch):
    """The clock is replaced: ours takes 2, 4 and 3 seconds in three rounds after the first, PIL 8, 4 and 3."""
    monkeypatch.setattr(bench, "SIZES", ((60, 40), (200, 160)))
    seconds = itertools.cycle([90, 1, 2, 8, 4, 4, 3, 3])  # the first round is a warm-up
    monkeypatch.setattr(bench, "_seconds", lambda work, items: ([work(item) for item in items], next(seconds))[1])
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    size = ["--images", "2", "--rounds", "3", "--view", "32"]
    assert main(["bench", "data", *size, "--out", str(tmp_path / "bench.json")]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found) == ["60 x 40", "200 x 160"]
    printed = capsys.readouterr().out
    for name, rates in found.items():
        assert (rates["ours, images/s"], rates["pil, images/s"]) == (pytest.approx(2 / 3), 0.5)  # two images
        assert rates["ratio"] == 1  # the median of 4, 1 and 1
        assert f"{name} px" in printed and "1.00 times as fast" in printed
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_both_ways_see_the_same_picture():
    """The base view is no matter of chance: PIL's and ours differ by the rounding between two passes."""
    file, policy = bench.photo(300, 200, seed=1), bench.policy(64)
    ours = bench._ours((file,), policy, seed=0)[0, 0].views[0].permute(0, 3, 1, 2)
    pil = bench.plain(file, 64)
    assert ours.shape == pil.shape == (3, 3, 64, 64) and ours.dtype == pil.dtype == torch.uint8
    # 200 px for 64: decoded two times smaller, which noise shows a little
    error = (ours[0].double() - pil[0].double()).abs()
    assert error.mean() < 4 and error.std() < 4
    assert (ours[1].double() - pil[1].double()).abs().mean() > error.mean()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (2000, 1500)])
def test_a_made_up_photo_is_a_jpeg_of_the_size_and_weight_of_photos(width: int, height: int):
    file = bench.photo(width, height, seed=0)
    image = Image.open(io.BytesIO(file))
    assert image.format == "JPEG" and image.size == (width, height) and image.mode == "RGB"
    assert 0.2 < len(file) / (width * height) < 0.5  # bytes a pixel
    assert file == bench.photo(width, height, seed=0) != bench.photo(width, height, seed=1)


@pytest.mark.parametrize("setting", ["--images", "--rounds", "--view"])
def test_numbers_below_one_are_refused(setting: str, capsys):
    assert main(["bench", "data", setting, "0"]) == 1
    assert "must be at least 1" in capsys.readouterr().err
