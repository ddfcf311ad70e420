"""Invariance: how far features move when an image is cropped, rotated, blurred, recoloured, ...

Letters: N test images, M transformed images, S view size, D features, R dimensions that vary.
Source: Ericsson, Gouk & Hospedales (arXiv 2111.11398): cosine and Mahalanobis distance of features whitened by the
clean test images.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from star_catalog.names import slugify

from ....data.eval_sets.dataset import Splits
from ....data.sources.base import Source
from ....data.sources.subset import spread
from ...embeddings import base, extract_views, view
from ...frozen_model import FrozenModel
from ...metrics import Estimate, Measurement, Metric, TooFew, by_slug, mean
from ...solvers.whitening import whitening
from .probes import GROUPS, TRANSFORMATIONS, of_channels

PAIRED = ("crop", *GROUPS)  # whose cosines are kept by image
_CLEAN = 10_000  # images for the covariance
_MOVED = 500  # images to transform
_FEWEST = 20


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns mean cosine (1 invariant) and Mahalanobis distance (0 invariant) by transformation and by group of them.

    The means are over strengths, the transformations of a group, and images. Base views are transformed before they
    are normalised. `details["by image"]` holds the cosines that `difference` pairs.
    """
    source = spread(splits.test, _CLEAN)
    if len(source) < _FEWEST:
        raise TooFew(f"{source.name} has {len(source)} test images; invariance needs at least {_FEWEST}")
    clean = view(model, source, base, seed).features[:, 0]
    whiten = whitening(clean)
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:_MOVED].sort().values
    images, params = _base_views(model, source, chosen)
    before = whiten(extract_views(model, images, params))

    by_image: dict[str, dict[str, Tensor]] = {"cosine": {}, "Mahalanobis": {}}  # means over strengths, (M,)
    curves: dict[str, Any] = {}
    for name, transformation in of_channels(model.channels).items():
        moved = (transformation.apply(images, strength) for strength in transformation.strengths)
        compared = [compare(before, whiten(extract_views(model, x, params))) for x in moved]
        cosine, distance = (torch.stack(parts, 1) for parts in zip(*compared, strict=True))  # (M, strengths)
        by_image["cosine"][name], by_image["Mahalanobis"][name] = cosine.mean(1), distance.mean(1)
        curves[name] = {
            "strengths": list(transformation.strengths),
            "unit": transformation.unit,
            "cosine": cosine.mean(0).tolist(),
            "mahalanobis": distance.mean(0).tolist(),
        }
    for found in by_image.values():
        found |= {g: torch.stack([found[name] for name in members(g) if name in found]).mean(0) for g in GROUPS}
    others = compare(before, before.roll(1, 0))
    settings = {
        "images": {"transformed": len(chosen), "covariance": len(clean)},
        "view": "base view",
        "dimensions": whiten.axes.shape[1],
        "covariance": f"Ledoit-Wolf, shrinkage {whiten.shrinkage:.4g}" if whiten.shrinkage else "sample",
        "two different images": {"cosine": float(others[0].mean()), "Mahalanobis": float(others[1].mean())},
    }
    metrics = [_metric(title, *named) for title, found in by_image.items() for named in found.items()]
    paired = {name: [round(v, 4) for v in by_image["cosine"][name].tolist()] for name in PAIRED}
    return Measurement(by_slug(metrics), settings, {"curves": curves, "by image": paired})


def members(group: str) -> list[str]:
    """Returns the names of the transformations of a group."""
    return [name for name, transformation in TRANSFORMATIONS.items() if transformation.group == group]


def _metric(title: str, name: str, values: Tensor) -> Metric:
    return Metric(slugify(f"{title} {name}"), f"{title}, {name}", "", "invariance", *mean(values))


def difference(first: dict[str, Any], second: dict[str, Any], name: str) -> Estimate:
    """Returns a model's mean cosine minus another's, with the interval over images; the arguments are their details.

    `name` is one of PAIRED. Both models must have been measured on the same images with the same seed, because the
    interval is that of the mean of the differences by image. Raises ValueError if their numbers of images differ.
    """
    a, b = (torch.tensor(details["by image"][name], dtype=torch.float64) for details in (first, second))
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} images can't be paired; measure both models on the same data set")
    return mean(a - b)


def _base_views(model: FrozenModel, source: Source, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the chosen images cropped as base views (M, C, S, S) uint8, and their params (M, P)."""
    images = [source[index] for index in chosen.tolist()]
    params = torch.stack([model.policy.base(*image.shape[-2:]) for image in images])
    views = torch.stack([model.policy.crop(image, row) for image, row in zip(images, params, strict=True)])
    return (views.round().to(torch.uint8) if views.is_floating_point() else views), params


def compare(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosine and distance of whitened features (M, R) and (M, R): (M,) each, float64."""
    return F.cosine_similarity(before, after), (before - after).norm(dim=1)
