"""The measured sizes, and everything that the sides have in common: images, augmentations, optimiser, backbones.

Letters: S view size.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIEWS = 2
MIN_SCALE, FLIP = 0.08, 0.5  # of the crop's area; probability
JITTER, JITTER_P = (0.4, 0.4, 0.4, 0.1), 0.8  # brightness, contrast, saturation, hue: SimCLR's strength 0.5
GREY_P = 0.2
BLUR_P, BLUR_SIGMA = 0.5, (0.1, 2.0)  # probability; standard deviation in pixels
BLUR_KERNEL = 13  # pixels of our kernel: three standard deviations of the strongest blur to each side
TEMPERATURE, EMBED_DIM = 0.2, 128
RATE, MOMENTUM, DECAY = 0.03, 0.9, 5e-4  # the learning rate for 256 images
CLASSES = 10  # subfolders, which are the classes of the supervised step
_DISTINCT = 128  # JPEGs that are encoded; the other files are links to them
_QUALITY = 92


@dataclass(frozen=True)
class Size:
    """A backbone, its views, its batch and its JPEGs."""

    backbone: str
    pixels: int  # S
    batch: int  # images per step
    picture: tuple[int, int]  # width and height of the JPEGs
    files: int  # photos are too many to keep them decoded, as ours does with few images


SIZES = {
    "r18-32": Size("resnet18_small", 32, 128, (32, 32), 2048),
    "r18-96": Size("resnet18", 96, 64, (96, 96), 2048),
    "r50-224": Size("resnet50", 224, 16, (500, 375), 4096),
}


def register_backbones() -> None:
    """Registers "resnet18_small" with timm: ResNet-18 with the stem for 32 px, a 3x3 convolution without pooling."""
    import timm
    from torch import nn

    def resnet18_small(pretrained: bool = False, **settings: Any) -> nn.Module:
        model: Any = timm.models.resnet.resnet18(pretrained, **settings)
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        model.pretrained_cfg = {**model.pretrained_cfg, "architecture": "resnet18_small"}  # named in an export
        return model

    if not timm.is_model("resnet18_small"):
        resnet18_small.__module__ = "timm.models.resnet"  # whose list of names the registry extends
        timm.models.register_model(resnet18_small)


def write_images(size: Size, folder: Path, given: Path | None) -> None:
    """Fills a folder with the JPEGs of a size in one subfolder per class, made from given images or generated.

    Raises ValueError if `given` holds no image that can be decoded.
    """
    folder.mkdir()
    made = _from_given(size, given) if given else _generated(size)
    classes = [folder / f"{k}" for k in range(CLASSES)]
    for place in classes:
        place.mkdir()
    for k in range(size.files):
        file = classes[k % CLASSES] / f"{k:05d}.jpg"
        if k < len(made):
            file.write_bytes(made[k])
        else:
            os.link(classes[k % len(made) % CLASSES] / f"{k % len(made):05d}.jpg", file)


def _generated(size: Size) -> list[bytes]:
    from ..data.compare import photo

    return [photo(*size.picture, seed=k) for k in range(min(_DISTINCT, size.files))]


def _from_given(size: Size, given: Path) -> list[bytes]:
    from io import BytesIO

    from PIL import ImageOps
    from torchvision.transforms.functional import to_pil_image

    from ...data import open_source

    source = open_source(str(given))
    made = []
    for k in range(min(_DISTINCT, size.files, len(source))):
        file = BytesIO()
        ImageOps.fit(to_pil_image(source[k]), size.picture).save(file, "JPEG", quality=_QUALITY)
        made.append(file.getvalue())
    return made
