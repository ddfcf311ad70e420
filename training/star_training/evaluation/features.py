"""Features of a frozen backbone. Letters: N images, B of them at once, D features, S image size."""

import contextlib
import functools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import Source
from ..data.decode import Picture
from ..data.sources.base import open_image, ready
from ..data.workers import load_once, loading, useful_workers
from ..messages import busy
from .metrics import NotApplicable, TooFew

if TYPE_CHECKING:  # features in the cache are read without creating a model, so without these packages
    from star_zoo import Policy


_KEPT = 4  # decoded pixels for each pixel of a resized image, at least, along each side
_LONGEST = 8  # times its width that the resized part of an image is long
_VALUES = 256 * 3 * 512 * 512  # of pixels in a batch
_MAPS = 2**29  # numbers in the largest map of a batch: 2 GiB in float32


class Labelled(NamedTuple):
    """Features (N, D) float32 with their targets: (N,) int64 classes or (N, K) float32 numbers."""

    features: Tensor
    targets: Tensor


def check_classes(name: str, train: Tensor, *others: Tensor) -> None:
    """Raises ValueError unless the targets of all splits fit one classification task.

    They must be classes; `train` must have at least two, and the other splits none that `train` lacks.
    """
    if any(targets.is_floating_point() for targets in (train, *others)):
        raise NotApplicable(f"{name} has numbers for labels; classification needs classes")
    known = set(train.tolist())
    if len(known) < 2:
        raise TooFew(
            f"{name}: the training images are all of one class; pass images of at least two classes, "
            "and enough of each to hold some out"
        )
    if unknown := sorted({label for other in others for label in other.tolist()} - known):
        shown = ", ".join(map(str, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise ValueError(
            f"{name}: validation or test images are of {len(unknown)} classes that no training image has ({shown}); "
            "pass splits that number their classes alike, with enough images of each class to hold some out"
        )


def as_classes(name: str, train: Labelled, *others: Labelled) -> tuple[Labelled, ...]:
    """Returns the features with labels renumbered to 0, 1, ..., C - 1. Raises ValueError as `check_classes` does."""
    check_classes(name, train.targets, *(other.targets for other in others))
    labels = train.targets.unique()
    return tuple(Labelled(x, torch.searchsorted(labels, targets)) for x, targets in (train, *others))


class NotFinite(ValueError):
    """Raised for features that are infinite or NaN."""


def _whole(height: int, width: int) -> int:
    """Returns 1: an image of any size is needed in full."""
    return 1


class Preprocess(NamedTuple):
    """Converts a data set's images to a backbone's input (B, 3, S, S): first each image, in a worker, then a batch."""

    each: Callable[[Tensor], tuple[Tensor, ...]]  # returns tensors of the same shapes for all images
    join: Callable[..., Tensor]  # takes these tensors, each stacked over B images
    # both are picklable where workers aren't forked
    key: str  # describes the conversion in full: equal keys mean equal inputs
    in_order: bool = False  # whether `each` depends on the images before, so that workers can't divide them
    shrink: Callable[[int, int], int] = _whole  # of height and width: how much smaller an image may be decoded

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        return self.join(*_stacked([self.each(image) for image in images]))


def base_view(policy: "Policy") -> Preprocess:
    """Returns the preprocessing that takes each image's base view under a pretraining policy."""
    return Preprocess(functools.partial(_crop, policy, policy.base), policy.apply, f"base {policy.to_dict()}")


def drawn_view(policy: "Policy", seed: int) -> Preprocess:
    """Returns the preprocessing that draws one augmented view per image, in order.

    It is for data sets whose images exist only as views.
    """
    draw = functools.partial(policy.draw, generator=torch.Generator().manual_seed(seed))
    each = functools.partial(_crop, policy, draw)
    return Preprocess(each, policy.apply, f"drawn {seed} {policy.to_dict()}", in_order=True)


def _crop(policy: "Policy", choose: Callable[[int, int], Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    params = choose(*image.shape[-2:])
    return policy.crop(image, params), params


def timm_view(backbone: nn.Module) -> Preprocess:
    """Returns timm's preprocessing for evaluating this model: resize, centre crop, normalise.

    A JPEG from which the resized image keeps less than one in four pixels a side is decoded smaller, which changes its
    pixels by about one of 255 levels on average. If an image is more than eight times as long as wide, only its central
    part, which contains the crop, is resized.
    """
    import timm

    config = timm.data.resolve_model_data_config(backbone)
    transform = timm.data.create_transform(**config)
    kept = config["input_size"] if config["crop_pct"] == 1 else None
    longest = _LONGEST if config["crop_mode"] in (None, "center") else None
    each = functools.partial(_transformed, transform, kept, longest)
    shrink = functools.partial(_shrink, math.ceil(max(config["input_size"][1:]) / config["crop_pct"]))
    return Preprocess(each, _same, f"timm {config}", shrink=shrink)


def _shrink(resized: int, height: int, width: int) -> int:
    return max(1, min(height, width) // (_KEPT * resized))


def _transformed(
    transform: Any, kept: tuple[int, int, int] | None, longest: int | None, image: Tensor
) -> tuple[Tensor]:
    """Applies timm's transform; an image of the size `kept` is neither resized nor cropped.

    Images of 8 bits in grey or RGB are resized by Pillow, others as tensors, because Pillow has no mode for them.
    """
    if image.shape[1:] == (1, 1) and len(image) == 4:
        raise ValueError("spirographs are rendered by a pretraining policy; evaluate this model on images")
    if len(image) != (taken := len(transform.transforms[-1].mean)):
        raise ValueError(f"the images have {len(image)} channels, but the model takes {taken}")
    if image.shape == kept:
        return (transform.transforms[-1](image.float() / 255),)
    image = image if longest is None else _middle(image, longest)
    if image.dtype != torch.uint8 or len(image) not in (1, 3):
        return (transform(image.float() / 255),)
    from torchvision.transforms.v2.functional import to_pil_image

    return (transform(to_pil_image(image)),)


def _middle(image: Tensor, longest: int) -> Tensor:
    """Returns the centre of an image (C, H, W), cut to `longest` times as long as wide if it is longer.

    The result may be a pixel longer, because both ends lose the same number of pixels.
    """
    height, width = image.shape[-2:]
    most = longest * min(height, width)
    rows, columns = (max(0, (side - most) // 2) for side in (height, width))
    return image[:, rows : height - rows, columns : width - columns]


def objects() -> Preprocess:
    """Returns the preprocessing of a model that renders objects itself, e.g. spirographs: none."""
    return Preprocess(_alone, _same, "objects")


def pixels(size: int) -> Preprocess:
    """Returns the preprocessing to raw pixels, `size` x `size` with values in [0, 1]: a baseline for features."""
    return Preprocess(functools.partial(_resized, size), _same, f"pixels {size}")


def _resized(size: int, image: Tensor) -> tuple[Tensor]:
    from torchvision.transforms.v2.functional import resize

    return (resize(image, [size, size], antialias=True).float() / 255,)


def _alone(thing: Tensor) -> tuple[Tensor]:
    return (thing,)


def _same(batch: Tensor) -> Tensor:
    return batch


@dataclass(frozen=True)
class _Prepared:
    """The images of a source after `Preprocess.each`."""

    source: Source
    preprocess: Preprocess

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return open_image(self.source, index, self._prepared)

    def _prepared(self, picture: Picture) -> tuple[Tensor, ...]:
        return self.preprocess.each(picture.shrunk(self.preprocess.shrink(*picture.size))[0])

    def describe(self, index: int) -> str:
        return self.source.describe(index)


def _stacked(images: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*images, strict=True)]


def _concatenated(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _fitting(backbone: nn.Module, batch_size: int) -> int:
    """Returns the number of images of a batch, fewer for inputs above 512 x 512 pixels, as memory bounds them."""
    size = getattr(backbone, "pretrained_cfg", {}).get("input_size") or (1,)
    return max(1, min(batch_size, _VALUES // math.prod(size)))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Runs the block in eval mode without gradients, then restores the mode of every submodule."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, mode in modes.items():
            m.training = mode


def feature_batches(
    backbone: nn.Module, source: Source, preprocess: Preprocess, batch_size: int = 256, workers: int = 0
) -> Generator[Tensor, None, None]:
    """Yields pooled features of consecutive images, on the CPU: (B, D) float32. Raises DataError, LoadingError.

    The caller is within `evaluating`. `workers` processes load the images if they are many and decoded on access; their
    number does not change the features. At most a few batches are in memory, and one image is computed twice, to see
    how many fit into memory at once.
    """
    from star_zoo.bounds import largest_map

    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    workers = 0 if preprocess.in_order else useful_workers(source, workers)
    batch_size = _fitting(backbone, batch_size)
    if workers:
        ready(source)
    keys = [range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size)]
    images = load_once(_Prepared(source, preprocess), _stacked, _concatenated, keys, workers)
    at_once = 0
    with loading(images):
        for columns in images:
            batch = preprocess.join(*columns).to(device, memory_format=torch.channels_last)
            at_once = at_once or max(1, _MAPS // largest_map(backbone, batch[:1]))
            yield torch.cat([backbone(part).float().cpu() for part in batch.split(at_once)])


def check_finite(features: Tensor, name: str) -> None:
    """Raises NotFinite if features (N, D) of a data set of that name are infinite or NaN."""
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(1)).sum())
        raise NotFinite(f"{bad} of {len(features)} images of {name} have features that are not finite")


def extract(
    backbone: nn.Module,
    source: Source,
    preprocess: Preprocess,
    batch_size: int = 256,
    workers: int = 0,
    extracted: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Returns pooled features of every image, on the CPU: (N, D) float32. Raises NotFinite, DataError, LoadingError.

    As `feature_batches`; `extracted` is called with the number of images of each finished batch.
    """
    parts: list[Tensor] = []
    with evaluating(backbone), busy(lambda: f"features of {source.name}: {sum(map(len, parts)):,} of {len(source):,}"):
        for features in feature_batches(backbone, source, preprocess, batch_size, workers):
            parts.append(features)
            extracted(len(features))
    found = torch.cat(parts)
    check_finite(found, source.name)
    return found
