"""The memory of decoded images is bounded by one image, however many, large or elongated the images are."""

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from data_cases import encoded, png, write_folder
from eval_cases import Given
from memory import at_most, growth
from star_training.data import open_source
from star_training.data.cached import CachedSource
from star_training.data.decode import decode, opened
from star_training.data.eval_sets.dataset import Splits
from star_training.data.lazy import StreamedSource
from star_training.evaluation.features import Labelled, extract, objects, timm_view

MB = 2**20


def model(size: int, **config: object) -> nn.Module:
    """A model with inputs of so many pixels, of which only the configuration is used."""
    overlay = {"input_size": (3, size, size), "crop_pct": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3, **config}
    return timm.create_model("test_resnet", pretrained_cfg_overlay=overlay, num_classes=0)


def strip(length: int, width: int = 12) -> Image.Image:
    """Noise along a strip that is not symmetric."""
    pixels = np.random.default_rng(0).integers(0, 256, (width, length, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_images_larger_than_the_sample_are_decoded_one_by_one(tmp_path: Path):
    """All images of which the header is read are tiny: 256 of 512, evenly spaced."""
    sampled = set(torch.linspace(0, 511, 256, dtype=torch.float64).round().long().tolist())
    files = {f"{k:03d}.png": png(k % 256, (2, 2) if k in sampled else (200, 100)) for k in range(512)}
    folder = write_folder(tmp_path, files)
    for _ in range(2):  # the second opening knows the size from the first
        source = open_source(str(folder), cache_bytes=5 * MB)
        assert isinstance(source, StreamedSource)
        assert source[1].shape == (3, 100, 200) and source[511].shape == (3, 2, 2) and source[511][0, 0, 0] == 255
    whole = open_source(str(folder), cache_bytes=20 * MB)
    assert isinstance(whole, StreamedSource)  # what is known is the limit that was exceeded, not the size
    assert isinstance(open_source(str(folder), limit=200, cache_bytes=20 * MB), CachedSource)


@pytest.mark.parametrize(("side", "kind"), [(1024, CachedSource), (1025, StreamedSource)])
def test_images_above_a_megapixel_are_decoded_on_access(tmp_path: Path, side: int, kind: type):
    folder = write_folder(tmp_path, {"0.png": png(3, (side, 1024))})
    assert isinstance(open_source(str(folder)), kind)


def test_photographs_take_the_memory_of_one(tmp_path: Path):
    """14 photographs of 12 megapixels, 36 MB each: 500 MB if they were held decoded."""
    photo = encoded(Image.new("RGB", (4000, 3000), (90, 120, 30)), "JPEG")
    folder = write_folder(tmp_path, {f"{split}/a/{k}.jpg": photo for split in ("train", "test") for k in range(7)})
    net, both = model(32), Splits(str(folder))
    grown = growth(lambda: [extract(net, part, timm_view(net)) for part in (both.train, both.test)])
    assert grown < 350 * MB


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_photograph_decoded_smaller_changes_little(name: str):
    """A mean difference below two of 255 levels, if it keeps at least four pixels for each; none if it can't."""
    photo = Image.fromarray(load_sample_image(name))  # 427 x 640
    data = io.BytesIO()
    photo.save(data, "JPEG", quality=92)
    for size, factor in ((24, 4), (53, 2), (54, 1)):
        view = timm_view(model(size))
        picture = opened(data.getvalue())
        image, times = picture.shrunk(view.shrink(*picture.size))
        assert times == factor and min(image.shape[1:]) >= 4 * size
        difference = 255 * (view.each(image)[0] - view.each(decode(data.getvalue()))[0]).abs()
        assert float(difference.mean()) < 2 and (factor > 1 or float(difference.max()) == 0)


def test_a_long_strip_is_resized_around_its_centre():
    """As without the limit, up to the rounding of the resized length; and in little memory."""
    view, unlimited = timm_view(model(32)), timm_view(model(32, crop_mode="squash"))
    for image in (strip(301), strip(300), strip(12, 301)):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        expected = timm.data.create_transform((3, 32, 32), crop_pct=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
        assert float((view.each(pixels)[0] - expected).abs().mean()) < 0.01
        squashed = np.array(image.resize((32, 32), Image.Resampling.BILINEAR))
        assert torch.equal(unlimited.each(pixels)[0], torch.from_numpy(squashed).permute(2, 0, 1).float() / 255)
    short = torch.from_numpy(np.array(strip(96))).permute(2, 0, 1)
    expected = timm.data.create_transform((3, 32, 32), crop_pct=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)(strip(96))
    assert torch.equal(view.each(short)[0], expected)  # eight times as long as wide
    long = torch.from_numpy(np.array(strip(7_000_000))).permute(2, 0, 1)
    with at_most(300 * MB):  # 1.8 GB resized as a whole
        assert view.each(long)[0].shape == (3, 32, 32)


def test_large_inputs_pass_in_small_batches():
    sizes: list[int] = []
    net = nn.Flatten()
    net.pretrained_cfg = {"input_size": (3, 2048, 2048)}
    net.register_forward_pre_hook(lambda module, images: sizes.append(len(images[0])))
    extract(net, Given(Labelled(torch.zeros(40, 1), torch.zeros(40))), objects())
    assert sizes == [1, 16, 16, 8]  # one image shows the size of its maps; then as many pixels as 256 of 512 x 512
