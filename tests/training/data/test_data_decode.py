"""What any image file becomes: RGB of 8 bits or more, or one error that says why."""

import io
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
from star_training.data import UndecodableImage, decode
from star_training.data.decode import opened


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_comes_out_as_rgb(name):
    data, expected = FILES[name]
    image = decode(data)
    deep = name.startswith(("16 bits", "32 bits", "float"))
    assert image.dtype == (torch.float32 if deep else torch.uint8) and image.permute(1, 2, 0).is_contiguous()
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


# JPEGs that are wanted smaller


def smooth(width, height, mode="RGB"):
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def smooth_jpeg(width, height, mode="RGB", **saved):
    return encoded(smooth(width, height, mode), "JPEG", quality=95, **saved)


@pytest.mark.parametrize(
    ("mode", "saved"),
    [("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("L", {}), ("CMYK", {})],
)
@pytest.mark.parametrize(("width", "height"), [(160, 96), (163, 97), (65, 127)])
def test_a_smaller_jpeg_is_the_mean_of_the_pixels_it_stands_for(width, height, mode, saved):
    data = smooth_jpeg(width, height, mode, **saved)
    whole = decode(data).double()
    for times in (2, 4, 8):
        small, number = opened(data).shrunk(times)
        assert number == times and small.shape == (3, -(-height // times), -(-width // times))
        rows, columns = height // times, width // times
        blocks = whole[:, : rows * times, : columns * times].reshape(3, rows, times, columns, times).mean((2, 4))
        error = (small[:, :rows, :columns] - blocks).abs()
        assert error.mean() < 1 and error.max() < 8  # where colours, stored coarser, are steep


@pytest.mark.parametrize(("asked", "number"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (1000, 8)])
def test_the_largest_number_that_is_asked_for_is_taken(asked, number):
    assert opened(smooth_jpeg(64, 40)).shrunk(asked)[1] == number


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (50, 1), (3, 9), (7, 7)])
def test_no_image_shrinks_to_nothing(width, height):
    for asked in (1, 2, 4, 8):
        image, number = opened(smooth_jpeg(width, height)).shrunk(asked)
        assert number <= min(width, height)
        assert image.shape == (3, -(-height // number), -(-width // number))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_other_formats_are_decoded_whole(format):
    image = opened(encoded(smooth(64, 40), format))
    pixels, number = image.shrunk(8)
    assert image.size == (40, 64) and pixels.shape == (3, 40, 64) and number == 1


def test_a_pil_image_of_the_caller_is_left_alone():
    theirs = Image.open(io.BytesIO(smooth_jpeg(64, 40)))
    assert opened(theirs).shrunk(8)[1] == 1
    assert theirs.size == (64, 40)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_broken_jpeg_decodes_at_every_size_or_at_none(data):
    mutated = bytearray(smooth_jpeg(40, 30, data.draw(st.sampled_from(["RGB", "L", "CMYK"]))))
    for _ in range(data.draw(st.integers(0, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(mutated[: data.draw(st.integers(len(mutated) // 2, len(mutated)))])

    def outcome(times):
        try:
            image = opened(broken)
            height, width = image.size
            pixels, number = image.shrunk(times)
            return pixels.shape == (3, -(-height // number), -(-width // number))
        except UndecodableImage:
            return None

    assert {outcome(1)} == {outcome(times) for times in (1, 2, 4, 8)} <= {True, None}


def test_the_first_picture_of_several_in_a_jpeg_is_had_smaller_too():
    first, second = smooth(64, 40), Image.new("RGB", (64, 40))
    image = opened(encoded(first, "MPO", save_all=True, append_images=[second]))
    pixels, number = image.shrunk(4)
    assert number == 4 and pixels.shape == (3, 10, 16)
    expected = np.asarray(first.reduce(4)).transpose(2, 0, 1).astype(float)
    assert abs(pixels.numpy() - expected).mean() < 6  # saved at PIL's usual quality of 75
