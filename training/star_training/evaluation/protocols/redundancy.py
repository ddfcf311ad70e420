"""Redundancy: canonical correlations of z_inv and z_eq, and the effective rank of features and embeddings.

Letters: N images, D features, O embedding size.
"""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from star_catalog.names import slugify

from ...data.eval_sets.dataset import Splits
from ...data.sources.subset import spread
from ...messages import Note
from ..embeddings import base, embed, view
from ..frozen_model import FrozenModel
from ..metrics import Estimate, Measurement, Metric, TooFew, by_slug
from ..solvers.cca import correlations, jackknife, rank_me

_IMAGES = 10_000
_KEPT = 0.99  # share of each embedding's variance for SVCCA
_ENOUGH = 10  # images per dimension
_CORRELATIONS = {"cca": ("canonical correlation", 1.0), "svcca": ("SVCCA correlation", _KEPT)}  # name, variance kept


class FewImagesWarning(Note):
    """Warns of so few images that canonical correlations are high for any embeddings."""


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns RankMe of features and embeddings, and the two embeddings' mean CCA and SVCCA correlations.

    They are computed on base views of test images, in eval mode. Both embeddings are centred; with Q1 and Q2 from their
    QR decompositions, the correlations are the singular values of Q1^T Q2. It is not known which images STAR used, nor
    which share of the variance it kept.
    """
    source = spread(splits.test, _IMAGES)
    features = view(model, source, base, seed).features[:, 0]
    representations = {"features": features, **embed(model.objective, features)}
    settings: dict[str, Any] = {
        "images": len(features),
        "view": "base view",
        "interval": "jackknife that leaves out one of 20 random groups of images at a time",
    }
    metrics = [
        _metric(f"rankme_{slugify(name)}", f"RankMe of {name}", jackknife(functools.partial(_rank_of, x), len(x), seed))
        for name, x in representations.items()
    ]
    if not {"z_inv", "z_eq"} <= representations.keys():
        return Measurement(by_slug(metrics), settings)

    z_inv, z_eq = representations["z_inv"], representations["z_eq"]
    settings |= _count_settings(source.name, len(features), z_inv.shape[1], z_eq.shape[1])
    shuffled = z_eq[torch.randperm(len(z_eq), generator=torch.Generator().manual_seed(seed))]
    details = {}
    for slug, (name, kept) in _CORRELATIONS.items():
        measure = functools.partial(_mean_correlation, z_inv, z_eq, kept)
        metrics.append(_metric(slug, f"mean {name} of z_inv and z_eq", jackknife(measure, len(features), seed)))
        settings[f"mean {name} of shuffled pairs"] = float(correlations(z_inv, shuffled, kept).mean())
        details[f"{name}s"] = correlations(z_inv, z_eq, kept).tolist()
    return Measurement(by_slug(metrics), settings | {"SVCCA keeps": _KEPT}, details)


def _metric(slug: str, name: str, found: Estimate) -> Metric:
    return Metric(slug, name, "", "redundancy", *found)


def _rank_of(x: Tensor, rows: Tensor) -> Tensor:
    return rank_me(x[rows])


def _mean_correlation(a: Tensor, b: Tensor, kept: float, rows: Tensor) -> Tensor:
    return correlations(a[rows], b[rows], kept).mean()


def _count_settings(name: str, images: int, *widths: int) -> dict[str, str]:
    """Returns {} for enough images, a warning for few. Raises TooFew if correlations are 1 by construction."""
    if images <= sum(widths):
        raise TooFew(
            f"{name} has {images} test images for embeddings of {widths[0]} and {widths[1]} dimensions: without "
            f"more images than dimensions, canonical correlations are 1 for any model; pass at least "
            f"{sum(widths) + 1}, better {_ENOUGH * max(widths)}"
        )
    if images >= _ENOUGH * max(widths):
        return {}
    message = (
        f"{images} test images for embeddings of {max(widths)} dimensions: with fewer than {_ENOUGH} images per "
        "dimension, canonical correlations are too high; compare them with those of shuffled pairs"
    )
    warnings.warn(message, FewImagesWarning, stacklevel=3)
    return {"warning": message}
