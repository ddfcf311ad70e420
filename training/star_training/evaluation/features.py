"""Features of a frozen backbone. Letters: N images, B of them at once, D features, S image size."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize, to_pil_image

from star_zoo import Policy

from ..data import Source


class Labelled(NamedTuple):
    """Features (N, D) float32 with their targets: (N,) int64 classes or (N, K) float32 numbers."""

    features: Tensor
    targets: Tensor


def check_classes(name: str, train: Tensor, *others: Tensor) -> None:
    """Raises ValueError unless the targets of all splits fit one classification task.

    They must be classes; `train` must have at least two, and the other splits none that `train` lacks.
    """
    if any(targets.is_floating_point() for targets in (train, *others)):
        raise ValueError(f"{name} has numbers for labels; classification needs classes")
    known = set(train.tolist())
    if len(known) < 2:
        raise ValueError(
            f"{name}: the training images are all of one class; give images of at least two classes, "
            "and enough of each to hold some out"
        )
    if unknown := sorted({label for other in others for label in other.tolist()} - known):
        shown = ", ".join(map(str, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise ValueError(
            f"{name}: validation or test images are of {len(unknown)} classes that no training image has ({shown}); "
            "give splits that number their classes alike, with enough images of each class to hold some out"
        )


def as_classes(name: str, train: Labelled, *others: Labelled) -> tuple[Labelled, ...]:
    """Returns the features with labels renumbered to 0, 1, ..., C - 1. Raises ValueError as `check_classes` does."""
    check_classes(name, train.targets, *(other.targets for other in others))
    labels = train.targets.unique()
    return tuple(Labelled(x, torch.searchsorted(labels, targets)) for x, targets in (train, *others))


class NotFinite(ValueError):
    """Raised for features that are infinite or NaN."""


class Preprocess(NamedTuple):
    """Converts a data set's images to a backbone's input (B, 3, S, S)."""

    apply: Callable[[Sequence[Tensor]], Tensor]
    key: str  # describes `apply` in full: equal keys mean equal inputs

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        return self.apply(images)


def base_view(policy: Policy) -> Preprocess:
    """Returns the preprocessing that takes each image's base view under a pretraining policy."""
    return _views(policy, policy.base, "base")


def drawn_view(policy: Policy, seed: int) -> Preprocess:
    """Returns the preprocessing that draws one augmented view per image, in order.

    It is for data sets whose images exist only as views.
    """
    generator = torch.Generator().manual_seed(seed)
    return _views(policy, lambda height, width: policy.draw(height, width, generator), f"drawn {seed}")


def _views(policy: Policy, choose: Callable[[int, int], Tensor], kind: str) -> Preprocess:
    def apply(images: Sequence[Tensor]) -> Tensor:
        params = [choose(*image.shape[-2:]) for image in images]
        views = [policy.crop(image, p) for image, p in zip(images, params, strict=True)]
        return policy.apply(torch.stack(views), torch.stack(params))

    return Preprocess(apply, f"{kind} {policy.to_dict()}")


def timm_view(backbone: nn.Module) -> Preprocess:
    """Returns timm's preprocessing for evaluating this model: resize, centre crop, normalise."""
    config = timm.data.resolve_model_data_config(backbone)
    transform = timm.data.create_transform(**config)
    size, normalise = config["input_size"], transform.transforms[-1]
    keeps_size = config["crop_pct"] == 1  # then an image of the right size is neither resized nor cropped

    def one(image: Tensor) -> Tensor:
        if keeps_size and image.shape == size:
            return normalise(image.float() / 255)
        return transform(to_pil_image(image))

    return Preprocess(lambda images: torch.stack([one(image) for image in images]), f"timm {config}")


def objects() -> Preprocess:
    """Returns the preprocessing of a model that renders objects itself, e.g. spirographs: none."""
    return Preprocess(lambda things: torch.stack(list(things)), "objects")


def pixels(size: int) -> Preprocess:
    """Returns the preprocessing to raw pixels, `size` x `size` with values in [0, 1]: a baseline for features."""

    def apply(images: Sequence[Tensor]) -> Tensor:
        return torch.stack([resize(image, [size, size], antialias=True).float() / 255 for image in images])

    return Preprocess(apply, f"pixels {size}")


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


def extract(backbone: nn.Module, source: Source, preprocess: Preprocess, batch_size: int = 256) -> Tensor:
    """Returns pooled features of every image, on the CPU: (N, D) float32. Raises NotFinite."""
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    parts = []
    with evaluating(backbone):
        for start in range(0, len(source), batch_size):
            images = [source[i] for i in range(start, min(start + batch_size, len(source)))]
            batch = preprocess(images).to(device, memory_format=torch.channels_last)
            parts.append(backbone(batch).float().cpu())
    features = torch.cat(parts)
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(1)).sum())
        raise NotFinite(f"{bad} of {len(features)} images of {source.name} have features that are not finite")
    return features
