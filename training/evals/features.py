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


class NotFinite(ValueError):
    """Features are infinite or not a number."""


Preprocess = Callable[[Sequence[Tensor]], Tensor]  # images as their data set gives them -> (B, 3, S, S), normalised


def base_view(policy: Policy) -> Preprocess:
    """The images' base views under a pretraining policy."""
    return _views(policy, policy.base)


def drawn_view(policy: Policy, seed: int) -> Preprocess:
    """One augmented view of each image, drawn in their order: for sets whose images exist only as views."""
    generator = torch.Generator().manual_seed(seed)
    return _views(policy, lambda height, width: policy.draw(height, width, generator))


def _views(policy: Policy, choose: Callable[[int, int], Tensor]) -> Preprocess:
    def preprocess(images: Sequence[Tensor]) -> Tensor:
        params = [choose(*image.shape[-2:]) for image in images]
        views = [policy.crop(image, p) for image, p in zip(images, params, strict=True)]
        return policy.apply(torch.stack(views), torch.stack(params))

    return preprocess


def timm_view(backbone: nn.Module) -> Preprocess:
    """What timm does to an image before this model in evaluation: resize, centre crop, normalise."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(backbone))
    return lambda images: torch.stack([transform(to_pil_image(image)) for image in images])


def pixels(size: int) -> Preprocess:
    """The images themselves, resized to `size` x `size`, values in [0, 1]: what any features must beat."""
    return lambda images: torch.stack([resize(image, [size, size], antialias=True).float() / 255 for image in images])


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode and without gradient inside; every submodule comes back in the mode it came in."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, mode in modes.items():
            m.training = mode


def extract(backbone: nn.Module, source: Source, preprocess: Preprocess, batch_size: int = 256) -> Tensor:
    """Pooled features of every image, on the CPU: (N, D) float32. Raises NotFinite where they are not."""
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
