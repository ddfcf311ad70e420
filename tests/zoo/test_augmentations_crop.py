"""Crop against torchvision and PIL, at every size and shape; spirographs against the formula, pixel by pixel."""

import dataclasses
import math
import random

import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms import RandomResizedCrop

from star_zoo.augmentations import Crop, Spirograph
from star_zoo.augmentations.spirograph import render
from twins import photos, randn, repeatable

SIDES = st.integers(1, 3000)
UNIFORMS = st.integers(0, 2**32 - 1).map(lambda seed: [random.Random(seed).random() for _ in range(Crop.uniforms)])


def smooth(height: int, width: int) -> Tensor:
    """An image without sharp edges: (3, height, width) uint8."""
    noise = randn(1, 3, 4, 5)
    x = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")[0]
    return ((x - x.min()) / (x.max() - x.min()) * 255).to(torch.uint8)


# --- which box


@given(SIDES, SIDES, UNIFORMS)
@repeatable
def test_a_box_lies_inside_the_image_and_has_a_pixel(height: int, width: int, u: list[float]):
    top, left, h, w = Crop(8, unit="pixel").draw(height, width, u)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h >= 1
    assert w >= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3000, 2), (2, 3000), (17, 17)])
@pytest.mark.parametrize("unit", ["fraction", "pixel"])
def test_images_of_every_shape_can_be_cropped(height: int, width: int, unit: str):
    crop, image = Crop(8, unit=unit), photos(1, height, width)[0]
    for seed in range(20):
        params = torch.tensor(crop.draw(height, width, [random.Random(seed).random() for _ in range(Crop.uniforms)]))
        view = crop.crop(image, params)
        assert view.shape == (3, 8, 8)
        assert view.dtype == torch.uint8
    assert crop.crop(image, torch.tensor(crop.base(height, width))).shape == (3, 8, 8)


@given(SIDES, SIDES, UNIFORMS)
@repeatable
def test_fractions_and_pixels_describe_the_same_box(height: int, width: int, u: list[float]):
    pixels = Crop(8, unit="pixel").draw(height, width, u)
    fractions = Crop(8, unit="fraction").draw(height, width, u)
    sides = (height, width, height, width)
    assert [f * side for f, side in zip(fractions, sides, strict=True)] == pytest.approx(pixels)


@given(st.integers(1, 2000), st.integers(1, 2000), st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4))
@repeatable
def test_every_box_survives_float32_fractions_to_the_pixel(height: int, width: int, u: tuple[float, ...]):
    h, w = 1 + int(u[0] * height), 1 + int(u[1] * width)
    top, left = int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1))
    fractions = torch.tensor([top / height, left / width, h / height, w / width])
    assert fractions.dtype == torch.float32
    assert Crop(8)._pixels(fractions, height, width) == (top, left, h, w)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (60, 100), (100, 30)])
def test_boxes_are_drawn_as_torchvision_draws_them(height: int, width: int):
    count, chance = 3000, random.Random(0)
    crop = Crop(8, unit="pixel")
    ours = torch.tensor(
        [crop.draw(height, width, [chance.random() for _ in range(Crop.uniforms)]) for _ in range(count)]
    )
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = torch.tensor(boxes, dtype=torch.float32)

    def looks(x: Tensor) -> Tensor:
        """Area, shape and place of boxes (top, left, h, w), one row each."""
        top, left, h, w = x.unbind(1)
        return torch.stack((h * w, w / h, top, left, top + h, left + w, top + left, top - left))

    for a, b in zip(looks(ours), looks(theirs), strict=True):  # Kolmogorov and Smirnov's distance of two samples
        values = torch.cat((a, b))
        shares = [torch.searchsorted(x.sort().values, values, right=True) / count for x in (a, b)]
        assert (shares[0] - shares[1]).abs().max() < 1.63 * math.sqrt(2 / count)  # 1 in 100 for equal distributions


def test_an_image_too_long_for_any_box_gives_its_centre():
    u = [0.5] * Crop.uniforms
    assert Crop(8, unit="pixel").draw(300, 30, u) == (130, 0, 40, 30)  # 30 / 40 is the narrowest allowed shape
    assert Crop(8, unit="pixel").draw(30, 300, u) == (0, 130, 30, 40)


def test_scale_and_ratio_bound_the_box():
    crop = Crop(8, scale=(0.25, 0.25), ratio=(4.0, 4.0), unit="pixel")
    assert crop.draw(100, 100, [0.999] * Crop.uniforms) == (75, 0, 25, 100)


# --- the view


def test_the_base_view_is_the_centred_square():
    wide, tall = photos(1, 5, 9)[0], photos(1, 9, 5)[0]
    for unit in ("fraction", "pixel"):
        crop = Crop(5, unit=unit)
        assert torch.equal(crop.crop(wide, torch.tensor(crop.base(5, 9))), wide[:, :, 2:7])
        assert torch.equal(crop.crop(tall, torch.tensor(crop.base(9, 5))), tall[:, 2:7, :])


@pytest.mark.parametrize("unit", ["fraction", "pixel"])
def test_a_whole_image_of_the_views_size_is_unchanged(unit: str):
    crop, image = Crop(32, scale=(1.0, 1.0), ratio=(1.0, 1.0), unit=unit), photos(1, 32, 32)[0]
    assert torch.equal(crop.crop(image, torch.tensor(crop.draw(32, 32, [0.5] * Crop.uniforms))), image)


def test_the_box_is_top_left_height_width():
    image = photos(1, 20, 30)[0]
    view = Crop(4, unit="pixel").crop(image, torch.tensor([5.0, 11.0, 4.0, 4.0]))
    assert torch.equal(view, image[:, 5:9, 11:15])


def test_a_box_beyond_the_image_is_moved_inside():
    image = photos(1, 20, 30)[0]
    assert torch.equal(Crop(4, unit="pixel").crop(image, torch.tensor([18.0, -3.0, 4.0, 4.0])), image[:, 16:20, :4])
    tiny = Crop(4, unit="fraction").crop(image, torch.tensor([0.0, 0.0, 0.0, 0.0]))
    assert torch.equal(tiny, image[:, :1, :1].expand(3, 4, 4))


@pytest.mark.parametrize("content", [photos(1, 70, 90)[0], smooth(70, 90)], ids=["noise", "smooth"])
@pytest.mark.parametrize("box", [(0, 0, 70, 90), (10, 5, 50, 64), (30, 40, 9, 12), (3, 1, 64, 10)])
def test_resizing_is_torchvisions_and_pils_to_one_level(content: Tensor, box: tuple[int, int, int, int]):
    view = Crop(32, unit="pixel").crop(content, torch.tensor(box, dtype=torch.float32)).int()
    theirs = TF.resized_crop(content, *box, size=[32, 32], antialias=True)
    top, left, h, w = box
    picture = Image.fromarray(content.permute(1, 2, 0).numpy()).crop((left, top, left + w, top + h))
    pil = TF.pil_to_tensor(picture.resize((32, 32), Image.Resampling.BILINEAR))
    assert (view - theirs.int()).abs().max() <= 1
    assert (view - pil.int()).abs().max() <= 1


# --- spirographs


def drawn(m: float, b: float, sigma: float, rfore: float, seen: list[float], size: int) -> Tensor:
    """The generator of related_systems.md 11, one pixel and one point after the other."""
    h, rback, gfore, gback, bfore, bback = seen
    a = m + b - h
    grid = [-6 + 12 * i / (size - 1) for i in range(size)]
    points = []
    for k in range(40):
        t = 2 * math.pi * k / 39
        turn = (a - b) * t / b
        points.append(((a - b) * math.cos(t) + h * math.cos(turn), (a - b) * math.sin(t) - h * math.sin(turn)))
    v = [[sum(math.exp(-((i - x) ** 2 + (j - y) ** 2) / sigma) for x, y in points) / 40 for j in grid] for i in grid]
    v = torch.tensor(v) / (max(max(row) for row in v) + 1e-8)
    return torch.stack([v * fore + (1 - v) * back for fore, back in ((rfore, rback), (gfore, gback), (bfore, bback))])


@pytest.mark.parametrize("seed", range(3))
def test_a_spirograph_is_its_formula(seed: int):
    chance = random.Random(seed)
    m, b, sigma, rfore = chance.uniform(2, 5), chance.uniform(0.1, 1.1), chance.uniform(0.25, 1), chance.uniform(0.4, 1)
    spirograph = Spirograph(size=20)
    seen = list(spirograph.draw(1, 1, [chance.random() for _ in range(6)]))
    thing = torch.tensor([m, b, sigma, rfore]).view(4, 1, 1)
    assert torch.equal(spirograph.crop(thing, torch.tensor(seen)), thing)  # it is rendered with its whole batch
    view = picture(spirograph, thing, torch.tensor(seen))
    expected = drawn(m, b, sigma, rfore, seen, 20) * 255
    assert_close(255 * view, (255 * view).round())
    assert_close(255 * view, expected, rtol=0, atol=0.51)  # rounded to the nearest level


def test_a_spirograph_is_differentiable_in_its_params():
    """The gradient is that of the picture before rounding: finite differences of the formula in double precision."""
    spirograph, thing = Spirograph(size=12), torch.tensor([[3.0, 0.5, 0.9, 0.8]])
    base = spirograph.base(1, 1)
    params = torch.tensor([base], requires_grad=True)
    weights = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    (spirograph.apply(thing.view(1, 4, 1, 1), params)[0] * weights).sum().backward()
    for k in range(6):
        steps = 1e-6 * torch.eye(6, dtype=torch.float64)[k]
        ends = [
            (render(thing.double(), torch.tensor([base]).double() + sign * steps, 12)[0] * weights).sum()
            for sign in (1, -1)
        ]
        assert params.grad[0, k].item() == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-3)


def picture(spirograph: Spirograph, thing: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    """One view as it is rendered: (3, S, S) in [0, 1]."""
    return spirograph.apply(spirograph.crop(thing, params)[None], params[None])[0]


def test_a_spirographs_fields_are_the_six_that_the_object_leaves_open():
    assert Spirograph.fields == ("h", "rback", "gfore", "gback", "bfore", "bback")
    assert Spirograph(16).base(1, 1) == pytest.approx((1.5, 0.3, 0.7, 0.3, 0.7, 0.3))


def test_a_view_shows_its_own_params():
    thing = torch.tensor([3.0, 0.5, 0.5, 0.8]).view(4, 1, 1)
    spirograph = Spirograph(16)
    base = torch.tensor(spirograph.base(1, 1))
    views = [picture(spirograph, thing, base + 0.2 * torch.eye(6)[k]) for k in range(6)]
    plain = picture(spirograph, thing, base)
    channels = [sorted((view != plain).flatten(1).any(1).nonzero().flatten().tolist()) for view in views]
    assert channels == [[0, 1, 2], [0], [1], [1], [2], [2]]  # h bends the curve, each other colours one channel


def test_another_size_shows_the_same_picture():
    thing, small = torch.tensor([3.0, 0.5, 0.9, 0.8]).view(4, 1, 1), Spirograph(17)
    large = dataclasses.replace(small, size=33)
    base = torch.tensor(small.base(1, 1))
    # every second grid point is shared; the brightest point of each picture, which is 1, is not
    difference = 255 * (picture(large, thing, base)[:, ::2, ::2] - picture(small, thing, base)).abs()
    assert difference.float().mean() < 4
