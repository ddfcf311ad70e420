"""Images of one, two, four and more channels, and of more than 8 bits: decoded, kept in memory, and normalised."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from data_cases import encoded, png, write_folder, write_parquet
from star_training.data import BadImageWarning, DataError, UndecodableImage, decode, open_source
from star_training.data.decode import As
from star_training.data.lazy import StreamedSource
from star_training.data.sources.folder import open_folder
from star_training.data.sources.raw import in_channels
from star_training.data.summary import summary
from star_training.data.views import MultiViewDataset, concatenate, stack
from star_training.evaluation.protocols.invariance.probes import GROUPS, TRANSFORMATIONS, of_channels
from star_training.pretraining.pixel_statistics import estimated
from star_zoo import Policy
from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip, Grayscale, Solarize
from star_zoo.augmentations.presets import of_config

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
WORDS = RNG.integers(0, 65536, (5, 7, 5)).astype(np.uint16)
FLOATS = RNG.random((5, 7, 5)).astype(np.float32)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array, **settings):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", **settings)
    return file.getvalue()


def png_of_16_bits(values):
    """The file format by its specification: no filter, big endian."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows))
    blocks = [
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in (*parts, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(blocks)


def image(pixels, mode):
    return encoded(Image.frombytes(mode, (7, 5), np.ascontiguousarray(pixels).tobytes()), "PNG")


CASES = {  # the file, the channels to read, the values on the scale of 8 bits
    "RGBA": (image(BYTES, "RGBA"), 4, BYTES),
    "grey and alpha": (image(BYTES[..., :2], "LA"), 2, BYTES[..., :2]),
    "grey": (image(BYTES[..., 0], "L"), 1, BYTES[..., :1]),
    "CMYK": (encoded(Image.frombytes("CMYK", (7, 5), BYTES.tobytes()), "TIFF"), 4, BYTES),
    "16-bit grey": (png_of_16_bits(WORDS[..., :1]), 1, WORDS[..., :1] / 257),
    "16-bit grey as RGB": (png_of_16_bits(WORDS[..., :1]), 3, WORDS[..., [0, 0, 0]] / 257),
    "16-bit RGB": (png_of_16_bits(WORDS[..., :3]), 3, WORDS[..., :3] / 257),
    "16-bit RGBA": (png_of_16_bits(WORDS[..., :4]), 4, WORDS[..., :4] / 257),
    "16-bit RGBA as RGB": (png_of_16_bits(WORDS[..., :4]), 3, WORDS[..., :3] / 257),
    "16-bit grey and alpha as grey": (png_of_16_bits(WORDS[..., :2]), 1, WORDS[..., :1] / 257),
    "16-bit RGB as grey": (png_of_16_bits(WORDS[..., :3]), 1, WORDS[..., :3] / 257 @ [[0.299], [0.587], [0.114]]),
    "TIFF of five": (tiff(WORDS, planarconfig="contig"), 5, WORDS / 257),
    "TIFF of five planes": (tiff(WORDS.transpose(2, 0, 1), planarconfig="separate"), 5, WORDS / 257),
    "TIFF of five floats": (tiff(FLOATS, planarconfig="contig"), 5, FLOATS * 255),
    "TIFF of five bytes": (tiff((FLOATS * 255).astype(np.uint8), planarconfig="contig"), 5, np.floor(FLOATS * 255)),
    "array": (npy(BYTES), 4, BYTES),
    "array, channels first": (npy(BYTES[..., :2].transpose(2, 0, 1)), 2, BYTES[..., :2]),
    "array, grey": (npy(FLOATS[..., 0]), 3, FLOATS[..., [0, 0, 0]] * 255),
    "array of doubles": (npy(FLOATS[..., :2].astype(np.float64)), 2, FLOATS[..., :2] * 255),
    "array of booleans": (npy(BYTES[..., 0] > 99), 1, (BYTES[..., :1] > 99) * 255),
}


@pytest.mark.parametrize("name", CASES)
def test_all_channels_and_bits_are_kept(name):
    data, channels, expected = CASES[name]
    found = decode(As(data, channels))
    is_8_bit = np.asarray(expected).dtype == np.uint8 or "bytes" in name or "booleans" in name
    assert found.dtype == (torch.uint8 if is_8_bit else torch.float32)
    torch.testing.assert_close(
        found.permute(1, 2, 0).double(), torch.from_numpy(np.asarray(expected, np.float64)), rtol=1e-6, atol=1e-4
    )


@pytest.mark.parametrize("write", [npy, lambda array: encoded(Image.fromarray(array[..., 0]), "TIFF")])
def test_values_that_are_not_finite_are_zero_and_an_image_of_them_alone_is_refused(write):
    values = FLOATS[..., :1].copy()
    values[0, :2, 0] = np.nan, np.inf
    found = decode(As(write(values), 1))
    assert found[0, 0, :2].tolist() == [0, 0] and found[0, 0, 2] == pytest.approx(255 * values[0, 2, 0])
    with pytest.raises(UndecodableImage, match="none of its values is finite"):
        decode(As(write(np.full_like(values, np.nan)), 1))


def test_grey_of_a_photo_is_pillows():
    photo = Image.frombytes("RGB", (7, 5), BYTES[..., :3].tobytes())
    assert np.array_equal(decode(As(encoded(photo, "PNG"), 1))[0].numpy(), np.asarray(photo.convert("L")))


@pytest.mark.parametrize(
    ("data", "channels", "reason"),
    [
        (png(0), 4, "number of channels: 3, but the model takes 4"),
        (image(BYTES, "RGBA"), 2, "number of channels: 4, but the model takes 2"),
        (npy(BYTES), 3, "number of channels: 4, but the model takes 3"),
        (CASES["TIFF of five"][0], 3, "number of channels: 5, but the model takes 3"),
        (npy(BYTES[None]), 3, r"shape \(1, 5, 7, 4\) of uint8; expected \(H, W\)"),
        (npy(np.array(["a"])), 1, "expected"),
        (npy(np.array([None])), 1, "array"),  # which would be unpickled
        (npy(BYTES)[:-5], 4, "truncated"),
        (npy(BYTES).replace(b"(5, 7, 4)", b"(5, 7, 4"), 4, "."),
        (b"\x93NUMPY\x01\x00" + npy(BYTES)[8:].replace(b"(5, 7, 4), ", b"(5, 7e9, 4)"), 4, "."),
        (png_of_16_bits(WORDS[..., :3])[:60], 3, "."),
        (CASES["TIFF of five"][0][:300], 5, "."),
    ],
)
def test_other_images_are_undecodable_with_the_reason(data, channels, reason):
    with pytest.raises(UndecodableImage, match=reason):
        decode(As(data, channels))


def test_an_array_that_states_a_huge_shape_takes_no_memory():
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000, 1000), }"
    with pytest.raises(UndecodableImage, match="truncated"):
        decode(As(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header, 1000))


def mixed(folder):
    """Images of 8 and of 16 bits, of odd sizes, so that floats in memory must be aligned."""
    files = {"0.png": image(BYTES[..., 0], "L"), "1.png": png_of_16_bits(WORDS[..., :1]), "2.png": png(3, (3, 1))}
    return write_folder(folder, {f"{name}": data for name, data in files.items()})


def test_in_memory_and_on_access_images_of_mixed_depth_are_equal(tmp_path):
    source = open_source(str(mixed(tmp_path)), channels=1)
    streamed = StreamedSource("x", in_channels(open_folder(tmp_path, "train"), 1), max_bad=0)
    expected = [BYTES[..., 0], WORDS[..., 0] / 257, np.full((1, 3), round(3 * 0.299 + 10 * 0.587 + 200 * 0.114))]
    for found in (source, streamed):
        for k, values in enumerate(expected):
            torch.testing.assert_close(found[k][0].double(), torch.from_numpy(values).double(), rtol=1e-6, atol=1e-4)
    assert source.fingerprint == streamed.fingerprint != open_source(str(tmp_path)).fingerprint


def test_views_of_mixed_depth_form_one_batch(tmp_path):
    policy = Policy((Crop(4),), (0.0,), (1.0,))
    dataset = MultiViewDataset(
        open_source(str(mixed(tmp_path)), channels=1), policy, lambda h, w, g: policy.base(h, w)[None], 0
    )
    parts = [stack([dataset[0, k]]) for k in range(3)]
    whole = stack([dataset[0, k] for k in range(3)]).batch()
    assert whole.views[0].shape == (3, 1, 4, 4) and whole.views[0].dtype == torch.float32
    assert torch.equal(concatenate(parts).batch().views[0], whole.views[0])
    assert torch.equal(
        policy.apply(whole.views[0], whole.params[0])[:1], policy.apply(*(x[0] for x in parts[0].batch()[:2]))
    )


def test_arrays_are_images_where_there_are_no_others(tmp_path):
    folder = write_folder(
        tmp_path, {f"{split}/{k}/0.npy": npy(BYTES[..., k]) for split in ("train", "val") for k in (0, 1)}
    )
    source = open_source(str(folder), channels=1)
    assert source.targets.tolist() == [0, 1] and torch.equal(source[1][0], torch.from_numpy(BYTES[..., 1]))
    write_folder(tmp_path / "photos", {"0.png": png(1), "embeddings.npy": npy(BYTES[..., 0])})
    assert "left out: embeddings.npy (not images)" in summary(open_source(str(tmp_path / "photos")))


def test_a_data_set_of_other_channels_says_so(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", image=[image(BYTES, "RGBA"), png(1)], label=[0, 1])
    with pytest.warns(BadImageWarning, match="number of channels: 3, but the model takes 4"):
        source = open_source(str(path), max_bad=0.5, channels=4)
    assert len(source) == 1 and torch.equal(source[0], torch.from_numpy(BYTES).permute(2, 0, 1))
    with pytest.raises(DataError, match="images of 0 channels don't exist"):
        open_source(str(path), channels=0)


# Policies

FULL = Policy((Crop(8), Flip(), ColorJitter(), Grayscale(), Solarize(), Blur(3)), (0.5,) * 3, (0.2,) * 3)


def test_a_policy_for_grey_images_keeps_what_acts_on_them():
    grey = FULL.of_channels(1)
    assert grey.augmentations == (Crop(8), Flip(), ColorJitter(saturation=0.0, hue=0.0), Solarize(), Blur(3))
    assert grey.mean == grey.std == () and grey.to_dict()["mean"] == "auto"
    assert Policy.from_dict(grey.to_dict()) == grey and grey.of_channels(1) == grey
    with pytest.raises(ValueError, match="no pixel statistics yet"):
        grey.apply(torch.zeros(1, 1, 8, 8), grey.base(8, 8)[None])
    assert of_config({"input_size": (1, 8, 8), "mean": [0.3], "std": [0.1]}).channels == 1


def test_colour_operations_on_other_channels_are_refused_with_the_way_out():
    for make in (lambda: FULL.of_channels(4), lambda: Policy(FULL.augmentations, (0.5,) * 4, (0.2,) * 4)):
        with pytest.raises(
            ValueError, match="ColorJitter and Grayscale of .*--set policy.augmentations-=ColorJitter --set policy"
        ):
            make()
    plain = Policy((Crop(8), ColorJitter(saturation=0.0, hue=0.0)), (0.5,) * 3, (0.2,) * 3)
    assert plain.of_channels(4).augmentations == plain.augmentations
    with pytest.raises(ValueError, match=r"policy\.mean has 4 values, but the images have 2 channels"):
        Policy((Crop(8),), (0.5,) * 4, (0.2,) * 4).of_channels(2)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_jitter_of_other_channels_is_torchvisions_brightness_and_contrast(channels):
    images = torch.rand(3, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    params = torch.tensor([[1.4, 0.7, 1.0, 0.0], [0.6, 1.3, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    found = ColorJitter(saturation=0.0, hue=0.0).apply(images, params)
    for one, row, result in zip(images, params, found, strict=True):
        bright = (row[0] * one).clamp(0, 1)
        expected = (row[1] * bright + (1 - row[1]) * bright.mean()).clamp(0, 1)
        if channels == 1:
            torch.testing.assert_close(F.adjust_contrast(F.adjust_brightness(one, row[0]), row[1]), expected)
        torch.testing.assert_close(result, expected)


def test_pixel_statistics_are_those_of_the_images(tmp_path):
    values = RNG.integers(0, 65536, (6, 8, 8, 2)).astype(np.uint16)
    write_folder(tmp_path, {f"{k}.npy": npy(one) for k, one in enumerate(values)})
    policy = Policy((Crop(8), Flip()), (0.5,) * 3, (0.2,) * 3).of_channels(2)
    found = estimated(policy, open_source(str(tmp_path), channels=2), 2)
    scaled = values.reshape(-1, 2) / 65535
    assert found.mean == pytest.approx(scaled.mean(0), abs=5e-5) and found.std == pytest.approx(scaled.std(0), abs=5e-5)
    assert found.augmentations == policy.augmentations
    write_folder(tmp_path, {f"{k}.npy": npy(np.dstack([one[..., 0], 0 * one[..., 0]])) for k, one in enumerate(values)})
    with pytest.raises(ValueError, match="channel 2 of .* has one value in all images"):
        estimated(policy, open_source(str(tmp_path), channels=2), 2)


@pytest.mark.parametrize(("channels", "lacking"), [(1, 3), (2, 6), (3, 0), (4, 6)])
def test_invariance_is_measured_by_what_images_of_so_many_channels_have(channels, lacking):
    images = torch.from_numpy(np.repeat(BYTES[None, :, :5, :1].repeat(4, 1).repeat(4, 2), channels, 3)).permute(
        0, 3, 1, 2
    )
    found = of_channels(channels)
    assert len(found) == len(TRANSFORMATIONS) - lacking and {found[name].group for name in found} == set(GROUPS)
    for each in found.values():
        assert each.apply(images, each.strengths[0]).shape == images.shape
