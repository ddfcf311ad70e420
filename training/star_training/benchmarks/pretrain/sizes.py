"""The measured sizes: three configurations of the method, each with its recipe and synthetic images.

Letters: S view size, P augmentation parameters.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from star_zoo import Policy

    from ...pretraining.recipe import Recipe

PHOTO = (500, 375)  # width and height of ImageNet's most common picture
_SMALL_BATCHES = 4  # batches of small images to write; they are decoded once and kept
_PHOTOS, _NAMES = 64, 4096  # distinct photos, and files linked to them, which are too many to keep decoded
_EPOCHS = 1000  # more than a benchmark reaches
_BLOCK = 25  # pixels between independent colours of a photo
_NOISE = 6  # standard deviation of the noise on these colours, of 255; a JPEG then has about 90 kB


@dataclass(frozen=True)
class Size:
    """A backbone, its heads and its batch."""

    backbone: str
    pixels: int  # S
    batch: int  # images per step
    experts: int
    blur: int | None  # kernel size in pixels; None: no blur, as usual for small images
    photos: bool  # JPEGs of 500 x 375 decoded on access, or images of S x S kept in memory
    steps: int  # per variant and round, so that a round takes seconds


SIZES = {
    "r18-32": Size("star_resnet18", 32, 128, 16, None, False, 3),
    "r18-96": Size("star_resnet18", 96, 64, 16, 9, False, 1),
    "r50-224": Size("star_resnet50", 224, 16, 8, 23, True, 1),
}


def policy(size: Size) -> "Policy":
    """Returns the released policy: crop boxes in pixels, kornia's colours, ImageNet's pixel statistics."""
    from star_catalog.tags import IMAGENET
    from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip, Grayscale, Policy

    colours = (ColorJitter(style="released"), Grayscale(style="released"))
    blur = () if size.blur is None else (Blur(size.blur),)
    return Policy((Crop(size.pixels, unit="pixel"), Flip(), *colours, *blur), IMAGENET["mean"], IMAGENET["std"])


def recipe(name: str, size: Size, images: Path, workers: int, precision: str) -> "Recipe":
    """Returns a recipe for STAR with the released optimiser, SGD with momentum, on a folder of images."""
    from ...pretraining.recipe import DataConfig, Recipe
    from ...settings.common import RunConfig

    return Recipe(
        name=name,
        backbone=size.backbone,
        policy=policy(size),
        data=DataConfig(source=str(images)),
        objective_args={"num_experts": size.experts},
        epochs=_EPOCHS,
        batch_size=size.batch,
        precision=precision,
        run=RunConfig(workers=workers, eval_every=0),
    )


def write_images(size: Size, folder: Path) -> list[Path]:
    """Fills a new folder with the images of a size and returns their files, in order."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    if not size.photos:
        shape = (size.pixels, size.pixels, 3)
        for k in range(_SMALL_BATCHES * size.batch):
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{k:05d}.png")
        return sorted(folder.iterdir())
    width, height = PHOTO
    for k in range(_PHOTOS):  # smooth blotches with a little noise, so that decoding costs as much as for a photo
        coarse = random.integers(0, 256, (height // _BLOCK, width // _BLOCK, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(coarse).resize(PHOTO, Image.Resampling.BICUBIC), np.float32)
        noisy = (soft + random.normal(0, _NOISE, soft.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{k:05d}.jpg", quality=92)
    for k in range(_PHOTOS, _NAMES):
        os.link(folder / f"{k % _PHOTOS:05d}.jpg", folder / f"{k:05d}.jpg")
    return sorted(folder.iterdir())
