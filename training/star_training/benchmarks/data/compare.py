"""Both ways of the benchmark, on synthetic JPEGs: plain PIL and our data set of views.

Letters: V views of an image, S view size, P augmentation parameters.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from star_zoo import Policy, objectives
from star_zoo.augmentations import Crop

from ... import recipes
from ...data.lazy import StreamedSource
from ...data.sources.base import NOT_TAKEN
from ...data.views import MultiViewDataset

SIZES = ((500, 375), (500, 500), (2000, 1500))  # width and height
QUALITY = 90
T = TypeVar("T")
_NOISE = 8.0  # standard deviation of the noise of each pixel; with it a pixel takes as many bytes as in a photo


@dataclass(frozen=True)
class _Photos:
    """Synthetic JPEGs of one size, in memory."""

    files: tuple[bytes, ...]
    fingerprint: str = "made up"
    classes: None = None
    targets: None = None
    inventory = NOT_TAKEN

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, index: int) -> bytes:
        return self.files[index]

    def describe(self, index: int) -> str:
        return f"made-up photo {index}"


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the comparison, by image size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(arguments.seed)
            return {f"{w} x {h}": _compared(w, h, arguments) for w, h in SIZES}
    finally:
        torch.set_num_threads(threads)


def _compared(width: int, height: int, arguments: argparse.Namespace) -> dict[str, float]:
    files = tuple(photo(width, height, arguments.seed + k) for k in range(arguments.images))
    ours = _ours(files, policy(arguments.view), arguments.seed)
    seconds: dict[str, list[float]] = {"ours": [], "pil": []}
    for epoch in range(arguments.rounds + 1):  # each draws new boxes
        took = {
            "ours": _seconds(ours.__getitem__, [(epoch, index) for index in range(len(files))]),
            "pil": _seconds(functools.partial(plain, view=arguments.view), files),
        }
        for way, value in took.items():
            seconds[way] += [value] if epoch else []  # the first is a warm-up
    rate = {way: len(files) / statistics.median(values) for way, values in seconds.items()}
    result = {
        "bytes": statistics.mean(map(len, files)),
        "ours, images/s": rate["ours"],
        "pil, images/s": rate["pil"],
        "ratio": statistics.median(p / o for p, o in zip(seconds["pil"], seconds["ours"], strict=True)),
    }
    print(
        f"{width} x {height} px, {result['bytes'] / 1000:.0f} kB: ours {rate['ours']:.0f} images/s, "
        f"plain PIL {rate['pil']:.0f} images/s, {result['ratio']:.2f} times as fast",
        flush=True,
    )
    return result


def _seconds(make: Callable[[T], object], images: Sequence[T]) -> float:
    """Returns the CPU seconds that the views of all images take."""
    start = time.process_time()
    for image in images:
        make(image)
    return time.process_time() - start


def policy(view: int) -> Policy:
    """Returns the policy of the `folder` recipe, with views of `view` pixels."""
    of_recipe = recipes.find("folder").policy
    return dataclasses.replace(of_recipe, augmentations=(Crop(view), *of_recipe.augmentations[1:]))


def _ours(files: tuple[bytes, ...], policy: Policy, seed: int) -> MultiViewDataset:
    """(epoch, index) -> image (3, 3, S, S) uint8, params (3, P)."""
    source = StreamedSource("made-up photos", _Photos(files), max_bad=0)
    return MultiViewDataset(source, policy, objectives.build("star", 8, policy, num_experts=2).plan, seed)


def plain(file: bytes, view: int) -> Tensor:
    """Returns the three views made with plain PIL, (3, 3, S, S) uint8."""
    image = Image.open(BytesIO(file)).convert("RGB")
    side = min(image.size)
    boxes = [[(image.height - side) // 2, (image.width - side) // 2, side, side]]
    boxes += [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(2)]
    return torch.stack([pil_to_tensor(resized_crop(image, *box, [view, view])) for box in boxes])


def photo(width: int, height: int, seed: int) -> bytes:
    """Returns a synthetic photo as JPEG: random fields, fainter at finer scales, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((1, 3, height, width), 128.0)
    for cells in (4, 8, 16, 32, 64):
        field = torch.randn(1, 3, cells, cells, generator=generator) * 255 / cells
        image += F.interpolate(field, size=(height, width), mode="bicubic")
    image += _NOISE * torch.randn(image.shape, generator=generator)
    file = BytesIO()
    pixels = np.ascontiguousarray(image.clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy())
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
