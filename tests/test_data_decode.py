"""What any image file becomes: RGB of 8 bits, or one error that says why."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from data_cases import (
    FILES,
    encoded,
    picture,
    png,
)
from training.data import UndecodableImage, decode


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_comes_out_as_rgb(name):
    data, expected = FILES[name]
    image = decode(data)
    assert image.dtype == torch.uint8 and image.is_contiguous()
    np.testing.assert_allclose(image.permute(1, 2, 0).double(), expected, atol=1)


def test_bytes_path_and_pil_image_decode_alike(tmp_path):
    picture(7).save(tmp_path / "x.png")
    expected = torch.tensor([7, 10, 200], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 4, 6)
    for form in (png(7), tmp_path / "x.png", picture(7)):
        assert torch.equal(decode(form), expected)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "PA", "RGBX", "RGBa"])
def test_rarer_modes_come_out_as_rgb(mode):
    assert decode(Image.new(mode, (3, 2))).shape == (3, 2, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_one_pixel(format):
    image = decode(encoded(Image.new("RGB", (1, 1), (255, 255, 255)), format))
    assert image.shape == (3, 1, 1) and image.min() > 250


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    image = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert image.shape == (3, 8, 8) and image[0].min() > 240 and image[2].max() < 15


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_file_is_undecodable(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format)
    for length in (len(data) // 2, 40):
        with pytest.raises(UndecodableImage):
            decode(data[:length])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>not found</html>", "not recognised"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "not recognised",
        ),  # would start Ghostscript
        (Path("nowhere.png"), "No such file"),
    ],
)
def test_undecodable_says_why(data, reason):
    with pytest.raises(UndecodableImage, match=reason):
        decode(data)


@pytest.mark.parametrize("side", [12, 20])  # PIL warns of more pixels than its limit and refuses twice as many
def test_decompression_bomb_is_undecodable(side, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(png(0, (10, 10))).shape == (3, 10, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UndecodableImage, match="pixels"):
            decode(png(0, (side, side)))


def decodes_or_says_why(data):
    try:
        assert decode(data).shape[0] == 3
    except UndecodableImage as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"P6 3 3 255\n", b"II*\0", b"qoif"]),
)
def test_random_bytes_raise_nothing_else(data, magic):
    decodes_or_says_why(magic + data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_files_raise_nothing_else(data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]))
    mutated = bytearray(encoded(picture(9, (20, 20)), format))
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_says_why(bytes(mutated[: data.draw(st.integers(1, len(mutated)))]))
