"""Large JPEGs are decoded 2, 4 or 8 times smaller where the views allow it, and the views hardly show it.

Letters: V views of an image, S view size, P augmentation parameters.
"""

import dataclasses
import functools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from data_cases import BROKEN, encoded, png, write_folder
from runs import assert_equal, exported, stopped_at, tiny
from star_training.data import BadImageWarning, DataError, open_source
from star_training.data.cached import CachedSource
from star_training.data.decode import Decoded, Jpeg
from star_training.data.lazy import StreamedSource
from star_training.data.sources.base import Opens, open_image
from star_training.data.sources.spirograph import Spirographs
from star_training.data.sources.subset import Part
from star_training.data.views import MultiViewDataset, Packed, StepBatches, loader, seeded
from star_training.pretraining.run import Run
from star_zoo import objectives
from star_zoo.augmentations import Crop, Policy, Spirograph
from twins import MEAN, STD, every_operation, randn, repeatable

few_processors = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # fewer than workers
SIZE = 32
POLICY = every_operation(SIZE)
PLAN = objectives.build("star", 8, POLICY, num_experts=2).plan
SIDES = st.integers(1, 3000)


@functools.cache
def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A photo-like picture: blobs and a little grain."""
    blobs = F.interpolate(randn(1, 3, 4, 5, seed=seed), size=(height, width), mode="bicubic")[0]
    grain = randn(3, height, width, seed=seed + 1)
    pixels = (128 + 60 * blobs + 3 * grain).clamp(0, 255).to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())).convert(mode)


@functools.cache
def jpeg(width: int, height: int, mode: str = "RGB", seed: int = 0, **settings: object) -> bytes:
    return encoded(picture(width, height, mode, seed), "JPEG", quality=95, **settings)


def streamed(root, files: dict[str, bytes]) -> StreamedSource:
    source = open_source(str(write_folder(root, files)), cache_bytes=0, max_bad=0.5)
    assert isinstance(source, StreamedSource)
    return source


class Watched(Opens):
    """A source that notes how many times smaller its images were decoded."""

    targets = None

    def __init__(self, source):
        self.source, self.times = source, []

    def open(self, index, use):
        def noting(image):
            watched = self

            class Noting:
                size = image.size

                def shrunk(self, times):
                    pixels, number = image.shrunk(times)
                    watched.times.append(number)
                    return pixels, number

            return use(Noting())

        return open_image(self.source, index, noting)

    def __getitem__(self, index):
        return self.source[index]


# How small it may be


@given(SIDES, SIDES, st.integers(1, 256), st.integers(0, 2**32 - 1))
@repeatable
def test_no_view_is_made_larger_because_its_image_was_shrunk(height, width, size, seed):
    crop = Crop(size, scale=(0.01, 1.0))
    chance = random.Random(seed)
    drawn = [crop.base(height, width), crop.draw(height, width, [chance.random() for _ in range(Crop.uniforms)])]
    for params in map(torch.tensor, drawn):
        most = crop.shrink(params, height, width)
        top, left, h, w = crop._pixels(params, height, width)
        assert most == 1 or min(h, w) >= size * most
        assert min(h, w) < size * (most + 1)
        for times in {1, 2, 4, 8} & set(range(1, most + 1)):
            box = crop._pixels(params, height / times, width / times)
            rows, columns = -(-height // times), -(-width // times)
            assert times == 1 or min(box[2:]) >= size
            # right to the pixel, from start and by length
            assert all(abs(a - b / times) < 1 for a, b in zip(box, (top, left, h, w), strict=True))
            assert box[0] + box[2] <= rows and box[1] + box[3] <= columns


def test_a_box_in_source_pixels_needs_them_all():
    crop = Crop(8, unit="pixel")
    assert crop.shrink(torch.tensor(crop.base(1000, 1000)), 1000, 1000) == 1
    assert Crop(8).shrink(torch.tensor(Crop(8).base(1000, 1000)), 1000, 1000) == 125
    assert Policy((Spirograph(8),), MEAN, STD).shrink(torch.rand(6), 1000, 1000) == 1


# The views


def pixels(packed: Packed) -> tuple[Tensor, Tensor]:
    """An image's views (V, 3, S, S) and their params (V, P)."""
    return packed.views[0].permute(0, 3, 1, 2), packed.params


def whole_views(image: Tensor, epoch: int, index: int, policy: Policy = POLICY) -> tuple[Tensor, Tensor]:
    """What the views were before any image was shrunk: all from the whole image."""
    params = PLAN(*image.shape[1:], seeded(0, epoch, index))
    return torch.stack([policy.crop(image, p) for p in params]), params


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("width", "height"), [(512, 512), (501, 377), (1003, 330), (331, 999)])
def test_params_are_those_of_the_whole_image_and_views_nearly(tmp_path, width, height, mode):
    source = Watched(streamed(tmp_path, {"a.jpg": jpeg(width, height, mode)}))
    views = MultiViewDataset(source, POLICY, PLAN, seed=0)
    for epoch in range(12):
        images, params = pixels(views[epoch, 0])
        expected, same = whole_views(source[0], epoch, 0)
        assert torch.equal(params, same)
        # a box starts and ends on pixels of the smaller image, up to half of the view's own pixels to the side
        assert levels(images, expected).mean((1, 2, 3)).max() < 5
        # from the same box of the whole image, blurred by the resizing alone, there is next to no difference
        assert levels(images, same_boxes(source[0], params, source.times[-1])).mean((1, 2, 3)).max() < 1
    assert set(source.times) & {2, 4, 8}


def levels(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).abs()


def same_boxes(image: Tensor, params: Tensor, times: int) -> Tensor:
    """Views of the whole image by the boxes that were taken of the one so many times smaller."""
    crop, views = Crop(SIZE), []
    height, width = image.shape[1:]
    # what a JPEG holds past its edges is the edge once more
    image = F.pad(image.double(), (0, -width % times, 0, -height % times), mode="replicate").to(torch.uint8)
    for p in params[:, :4]:
        top, left, h, w = (times * x for x in crop._pixels(p, height / times, width / times))
        box = image[None, :, top : top + h, left : left + w]
        views.append(F.interpolate(box, size=(SIZE, SIZE), mode="bilinear", antialias=True)[0])
    return torch.stack(views)


def test_what_is_seen_lies_where_the_params_say(tmp_path):
    """A ramp shows where each of its pixels lies."""
    width, height = 1000, 763
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)).round().astype(np.uint8)
    source = Watched(streamed(tmp_path, {"a.jpg": encoded(Image.fromarray(ramp), "JPEG", quality=100)}))
    views = MultiViewDataset(source, POLICY, PLAN, seed=0)
    for epoch in range(20):
        images, params = pixels(views[epoch, 0])
        times = source.times[-1]
        for image, (_, left, _, w) in zip(images, params[:, :4].tolist(), strict=True):
            seen = image.double().mean((0, 1)) / 255 * (width - 1)  # columns of the whole image
            expected = width * (left + w * (torch.arange(SIZE) + 0.5) / SIZE) - 0.5
            # one level is 4 columns, and start and length are off by half a pixel of the smaller image each
            assert (seen - expected).abs().max() < 2 + times
    assert max(source.times) >= 4


def test_images_that_need_all_their_detail_give_the_very_same_views(tmp_path):
    source = streamed(tmp_path, {"a.jpg": jpeg(50, 40), "b.jpg": jpeg(33, 70), "c.png": png(3, (600, 500))})
    views = MultiViewDataset(source, POLICY, PLAN, seed=0)
    for epoch in range(3):
        for index in range(3):
            images, params = pixels(views[epoch, index])
            expected, same = whole_views(source[index], epoch, index)
            assert torch.equal(images, expected) and torch.equal(params, same)


def test_the_view_that_needs_most_detail_decides(tmp_path):
    source = Watched(streamed(tmp_path, {"a.jpg": jpeg(512, 512)}))

    def plan(share, height, width, generator):
        params = POLICY.base(height, width).repeat(3, 1)
        params[1:, 2:4] = torch.tensor([[0.5, 0.5], [0.5, share]])
        return params

    for share, times in ((0.5, 8), (0.49, 4), (0.13, 2), (0.12, 1)):
        images, _ = pixels(MultiViewDataset(source, POLICY, functools.partial(plan, share), seed=0)[0, 0])
        assert source.times[-1] == times and images.shape == (3, 3, SIZE, SIZE)


def test_decoded_images_are_as_large_as_they_are(tmp_path):
    cached = open_source(str(write_folder(tmp_path, {"a.jpg": jpeg(512, 512)})))
    assert isinstance(cached, CachedSource)
    for source in (cached, Part(cached, torch.tensor([0]))):
        images, params = pixels(MultiViewDataset(source, POLICY, PLAN, seed=0)[0, 0])
        expected, same = whole_views(cached[0], 0, 0)
        assert torch.equal(images, expected) and torch.equal(params, same)
    spirograph = open_image(Spirographs(3), 1, lambda image: image)
    assert isinstance(spirograph, Decoded) and spirograph.size == (1, 1)
    assert torch.equal(spirograph.shrunk(8)[0], Spirographs(3)[1])


def test_a_part_of_a_streamed_source_is_decoded_smaller_too(tmp_path):
    whole = streamed(tmp_path, {f"{n}.jpg": jpeg(512, 500, seed=n) for n in range(3)})
    part = Watched(Part(whole, torch.tensor([2, 0])))
    images, _ = pixels(MultiViewDataset(part, POLICY, PLAN, seed=0)[0, 0])
    assert part.times[0] >= 2
    assert levels(images[0], POLICY.crop(whole[2], POLICY.base(500, 512))).mean() < 5


# Broken images, workers, resume


def with_broken_ones() -> dict[str, bytes]:
    """Large JPEGs of different sizes, one with a good header and half of its data."""
    files = {f"{n}.jpg": jpeg(300 + 20 * n, 280 - 10 * n, seed=n) for n in range(8)}
    files["2.jpg"] = files["2.jpg"][: len(files["2.jpg"]) // 2]
    return files | {"5.jpg": BROKEN, "6.jpg": b""}


def test_the_stand_in_is_planned_with_its_own_size(tmp_path):
    source = streamed(tmp_path, with_broken_ones())
    views = MultiViewDataset(source, POLICY, PLAN, seed=0)
    for first in (True, False):  # found broken, and known to be
        for index, shown in ((2, 3), (5, 7), (6, 7)):
            images, params = pixels(views[0, index])
            expected, same = whole_views(source[shown], 0, index)
            assert torch.equal(params, same), first
            assert levels(images, expected).mean() < 5
    assert source.bad == (2, 5, 6)
    with pytest.warns(BadImageWarning, match="3 of the 8 images"):
        source.check_bad()


def test_errors_of_the_plan_make_no_image_bad(tmp_path):
    source = streamed(tmp_path, {"a.jpg": jpeg(64, 64)})

    def plan(height, width, generator):
        raise ValueError("no such view")

    with pytest.raises(ValueError, match="no such view"):
        MultiViewDataset(source, POLICY, plan, seed=0)[0, 0]
    assert source.bad == ()


def test_a_source_of_broken_data_alone_is_refused(tmp_path):
    half = jpeg(64, 64)[:-500]
    source = streamed(tmp_path, {f"{n}.jpg": half for n in range(3)})
    with pytest.raises(DataError, match="none of the 3 images"):
        MultiViewDataset(source, POLICY, PLAN, seed=0)[0, 1]


@few_processors
@pytest.mark.parametrize(("workers", "first"), [(1, 0), (2, 0), (0, 2), (2, 3)])
def test_workers_and_a_later_start_change_nothing(tmp_path, workers, first):
    write_folder(tmp_path, with_broken_ones())

    def batches(workers, first):
        source = open_source(str(tmp_path), cache_bytes=0, max_bad=0.5)
        steps = StepBatches(8, 2, 1, 0, range(first, 8))
        return list(loader(MultiViewDataset(source, POLICY, PLAN, 0), steps, workers, pin=False))

    whole, other = batches(0, 0), batches(workers, first)
    assert len(other) == 8 - first
    for found, expected in zip(other, whole[first:], strict=True):
        assert torch.equal(found.views[0], expected.views[0]) and torch.equal(found.params, expected.params)


@pytest.mark.filterwarnings("ignore::star_training.data.BadImageWarning")
def test_a_stopped_run_over_shrunk_images_goes_on_bit_for_bit(tmp_path, monkeypatch):
    files = with_broken_ones() | {f"x{n}.jpg": jpeg(260 + 9 * n, 250, seed=n) for n in range(8)}
    write_folder(tmp_path / "images", files)
    monkeypatch.setattr(
        "star_training.data.sources.open._expected_bytes", lambda spec, raw: 2**60
    )  # too large to keep decoded
    settings = (f"data.source={tmp_path / 'images'}", "data.max_bad=0.5", "batch_size=4")
    recipe = dataclasses.replace(tiny(*settings), policy=POLICY)
    taken, shrunk = set(), Jpeg.shrunk

    def noting(image, times):
        pixels, number = shrunk(image, times)
        taken.add(number)
        return pixels, number

    monkeypatch.setattr(Jpeg, "shrunk", noting)
    Run(recipe, tmp_path / "whole").train()
    stopped_at(monkeypatch, recipe, tmp_path / "parted", 5)  # its process has forgotten what was found broken
    Run(recipe, tmp_path / "parted", resume=True).train()
    assert {2, 4} & taken
    assert_equal(exported(tmp_path / "parted"), exported(tmp_path / "whole"))
