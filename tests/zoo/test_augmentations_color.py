"""Colour operations and blur against torchvision, Python's colorsys and a direct convolution, image by image."""

import colorsys
import math

import pytest
import torch
import torchvision.transforms.functional as TF
from torch import Tensor
from torch.testing import assert_close

from star_zoo.augmentations import Blur, ColorJitter, Grayscale, Invert, Solarize
from twins import photos

# brightness, contrast, saturation, hue: each alone, all together, and the ends of what a jitter may draw
FACTORS = torch.tensor(
    [
        [1.3, 1.0, 1.0, 0.0],
        [1.0, 0.6, 1.0, 0.0],
        [1.0, 1.0, 1.4, 0.0],
        [1.0, 1.0, 1.0, 0.1],
        [0.7, 1.4, 0.6, -0.1],
        [1.4, 1.2, 1.3, 0.05],
        [0.0, 1.0, 1.0, 0.0],
        [1.0, 0.0, 0.0, 0.5],
        [2.0, 2.0, 2.0, -0.5],
    ]
)


def colours(seed: int = 0) -> Tensor:
    """An image for each row of FACTORS, with black, white, grey and pure colours among its pixels."""
    x = photos(len(FACTORS), 6, 7, seed).float() / 255
    special = [(0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
    x[:, :, 0] = torch.tensor(special).T
    return x


# --- colour jitter


def torchvision_pixels(image: Tensor, factors: list[float]) -> Tensor:
    brightness, contrast, saturation, hue = factors
    image = TF.adjust_brightness(image, brightness)
    image = TF.adjust_contrast(image, contrast)
    image = TF.adjust_saturation(image, saturation)
    return TF.adjust_hue(image, hue)


def released_pixel(pixel: list[float], factors: list[float]) -> list[float]:
    """kornia 0.4.1 on one pixel, as paper.md 1.3 states it."""
    brightness, contrast, saturation, hue = factors
    pixel = [min(max(x + (brightness - 1), 0), 1) for x in pixel]
    pixel = [min(max(x * contrast, 0), 1) for x in pixel]
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    return list(colorsys.hsv_to_rgb((h + hue) % 1, min(max(s * saturation, 0), 1), v))


def released_pixels(image: Tensor, factors: list[float]) -> Tensor:
    rows = image.permute(1, 2, 0).tolist()
    return torch.tensor([[released_pixel(pixel, factors) for pixel in row] for row in rows]).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("style", "twin"),
    [("torchvision", torchvision_pixels), ("released", released_pixels)],
    ids=["torchvision", "released"],
)
def test_colour_jitter_equals_its_twin_image_by_image(style: str, twin):
    x = colours()
    expected = torch.stack([twin(image, factors) for image, factors in zip(x, FACTORS.tolist(), strict=True)])
    assert_close(ColorJitter(style=style).apply(x, FACTORS), expected, rtol=0, atol=1e-5)


def test_the_two_styles_differ():
    jittered = [ColorJitter(style=style).apply(colours(), FACTORS) for style in ("torchvision", "released")]
    apart = (jittered[0] - jittered[1]).abs().amax((1, 2, 3)) > 0.05
    assert apart.tolist()[:4] == [True, True, True, False]  # a hue shift alone is the same in both


@pytest.mark.parametrize("style", ["torchvision", "released"])
def test_a_jitter_that_does_nothing_leaves_every_bit(style: str):
    x = colours()
    factors = FACTORS.clone()
    factors[3] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert torch.equal(ColorJitter(style=style).apply(x, factors)[3], x[3])


# --- grayscale and solarize


def test_grayscale_is_torchvisions_where_its_field_is_one():
    x = colours()[:3]
    out = Grayscale().apply(x, torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(out[1], x[1])
    assert_close(out[[0, 2]], TF.rgb_to_grayscale(x[[0, 2]], num_output_channels=3), rtol=0, atol=1e-6)


def test_released_grayscale_weighs_by_kornias_numbers():
    x = torch.eye(3)[None, :, None, :]  # a red, a green and a blue pixel
    out = Grayscale(style="released").apply(x, torch.ones(1, 1))
    assert_close(out[0, :, 0], torch.tensor([[0.299, 0.587, 0.114]] * 3))
    assert Grayscale().apply(x, torch.ones(1, 1))[0, 0, 0, 0] == pytest.approx(0.2989)


def test_invert_is_torchvisions_where_its_field_is_one():
    x = photos(3, 6, 7).float() / 255
    out = Invert().apply(x, torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(out[1], x[1])
    assert_close(out[[0, 2]], TF.invert(x[[0, 2]]))
    assert torch.equal(Invert().apply(out, torch.tensor([[1.0], [0.0], [1.0]])), x)


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_solarize_is_torchvisions_where_its_field_is_one(threshold: float):
    x = colours()[:3]
    x[:, :, 1, 1] = threshold  # exactly there, it acts
    out = Solarize(threshold=threshold).apply(x, torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(out[1], x[1])
    assert_close(out[[0, 2]], TF.solarize(x[[0, 2]], threshold), rtol=0, atol=0)


# --- blur


def blurred(image: list[list[float]], sigma: float, kernel: int) -> list[list[float]]:
    """One channel, each pixel a double sum; beyond the border the image is mirrored about its outermost pixel."""
    height, width, half = len(image), len(image[0]), kernel // 2
    weight = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-half, half + 1)}
    total = sum(weight.values()) ** 2

    def mirrored(i: int, size: int) -> int:
        return abs(i) if i < size else 2 * (size - 1) - i

    return [
        [
            sum(
                weight[dy] * weight[dx] * image[mirrored(y + dy, height)][mirrored(x + dx, width)]
                for dy in weight
                for dx in weight
            )
            / total
            for x in range(width)
        ]
        for y in range(height)
    ]


def test_blur_equals_a_direct_convolution_with_each_images_own_sigma():
    x = photos(3, 6, 9).float() / 255
    sigmas = [0.4, 1.0, 2.5]
    expected = [[blurred(c, s, 5) for c in image.tolist()] for image, s in zip(x, sigmas, strict=True)]
    assert_close(Blur(5).apply(x, torch.tensor(sigmas)[:, None]), torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3, 9, 23])
def test_blur_equals_torchvisions(kernel: int):
    x = photos(3, 24, 30).float() / 255
    sigmas = [0.1, 0.7, 2.0]
    expected = [TF.gaussian_blur(image, [kernel, kernel], [s, s]) for image, s in zip(x, sigmas, strict=True)]
    assert_close(Blur(kernel).apply(x, torch.tensor(sigmas)[:, None]), torch.stack(expected), rtol=0, atol=1e-6)


def test_sigma_zero_leaves_every_bit_beside_a_blurred_image():
    x = photos(3, 12, 12).float() / 255
    out = Blur(9).apply(x, torch.tensor([[0.0], [1.0], [0.0]]))
    assert torch.equal(out[[0, 2]], x[[0, 2]])
    assert not torch.equal(out[1], x[1])


def test_blur_keeps_the_mean_of_a_flat_image():
    out = Blur(9).apply(torch.full((1, 3, 12, 12), 0.3), torch.tensor([[1.5]]))
    assert_close(out, torch.full((1, 3, 12, 12), 0.3))


def test_a_kernel_wider_than_the_view_is_refused():
    with pytest.raises(ValueError, match=r"kernel is 9 pixels, but views are 12 x 4; .* views larger than 4 pixels"):
        Blur(9).apply(torch.zeros(1, 3, 12, 4), torch.ones(1, 1))
