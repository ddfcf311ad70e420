"""Redundancy: canonical correlations and shared variance of z_inv and z_eq, and the effective rank of embeddings.

The slug of a number has up to four parts, e.g. cca_drawn_within_recalibrated_shuffled:
  statistic  cca; svcca, svcca_95, svcca_90, svcca_80 (of 0.99, 0.95, 0.9, 0.8 of the variance); pwcca_inv, pwcca_eq
             (weighted by z_inv, by z_eq); explained_eq_by_inv, explained_inv_by_eq (R2 of the best linear map); cka;
             top8, top16, top32 (means of the largest canonical correlations)
  views      none: the base view of each image
             drawn: one random view of each image
             drawn_between: the mean of two random views of each image, which holds half the variance within images
             drawn_within: half the difference of these two; its expected value is 0, so it isn't centred
  heads      none: in eval mode, as saved
             recalibrated: their batch norms have the statistics of the measured views, base and random views apart
             unit: as saved, each embedding divided by its length
  reference  none: measured
             shuffled: with the images of z_eq permuted, which is the value that N images have by chance
             floor: embeddings of the same variances that are linear maps of the features in random directions
Correlations grow with the widths of the embeddings relative to that of the features: two random halves of the features
have a mean correlation of 2 / pi, so 0.6 is little in one backbone and much in another. Heads aren't linear, therefore
the floor is a reference and no bound.

Letters: N images, D features, O embedding size.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import slugify
from star_zoo import Objective

from ...data.eval_sets.dataset import Splits
from ...data.sources.subset import spread
from ...messages import Note
from ..embeddings import base_and_drawn, embed, recalibrated, view
from ..frozen_model import FrozenModel
from ..metrics import Estimate, Measurement, Metric, TooFew, by_slug
from ..solvers.effective_rank import rank_me
from ..solvers.jackknife import jackknife
from ..solvers.similarity import Components, Constant, Pair, centred, components, correlations, random_pairs

Both = tuple[Tensor, Tensor]  # z_inv and z_eq of base view and two random views: (N, 3, O) each

_IMAGES = 10_000
_ENOUGH = 10  # images per dimension
_SHARES = {"cca": 1.0, "svcca": 0.99, "svcca_95": 0.95, "svcca_90": 0.9, "svcca_80": 0.8}  # of the variance
_LISTED = {"cca": "mean canonical correlation of z_inv and z_eq", "svcca": "mean SVCCA correlation of z_inv and z_eq"}
_TOP = (8, 16, 32)
_NAMES = {  # of statistics, short because there are hundreds of numbers
    "cca": "CCA",
    **{slug: f"SVCCA {share}" for slug, share in _SHARES.items() if share < 1},
    "pwcca_inv": "PWCCA by z_inv",
    "pwcca_eq": "PWCCA by z_eq",
    "explained_eq_by_inv": "R2 of z_eq from z_inv",
    "explained_inv_by_eq": "R2 of z_inv from z_eq",
    "cka": "linear CKA",
    **{f"top{k}": f"largest {k}" for k in _TOP},
}
_PLACES = {  # names of the other parts of a slug
    "drawn": "random views",
    "drawn_between": "between images",
    "drawn_within": "within images",
    "recalibrated": "recalibrated",
    "unit": "unit length",
    "shuffled": "shuffled pairs",
    "floor": "random subspaces",
}
_VIEWS: dict[str, Callable[[Tensor], Components]] = {  # of an embedding (N, 3, O)
    "": lambda z: centred(z[:, 0]),
    "drawn": lambda z: centred(z[:, 1]),
    "drawn_between": lambda z: centred(z[:, 1:].mean(1)),
    "drawn_within": lambda z: components((z[:, 1] - z[:, 2]) / 2, float(z[:, 1].norm())),
}


class FewImagesWarning(Note):
    """Warns of so few images that canonical correlations are high for any embeddings."""


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns RankMe of features and embeddings, and how much the two embeddings share, on views of test images.

    RankMe and the base views' CCA and SVCCA are listed and have intervals; the other numbers are in results.json alone.
    The backbone is in eval mode. It is not known which images STAR used, nor which share of the variance it kept.
    """
    source = spread(splits.test, _IMAGES)
    features = view(model, source, base_and_drawn(2), seed).features
    embeddings = embed(model.objective, features)
    count = len(features)
    settings: dict[str, Any] = {
        "images": count,
        "views": "base view; two random views",
        "interval": "jackknife that leaves out one of 20 random groups of images at a time",
    }
    metrics = []
    for name, x in ({"features": features} | embeddings).items():
        found = jackknife(functools.partial(_rank_of, x[:, 0]), count, seed)
        metrics.append(_metric(f"rankme_{slugify(name)}", f"RankMe of {name}", found))
    if model.objective is None or not {"z_inv", "z_eq"} <= embeddings.keys():
        return Measurement(by_slug(metrics), settings)

    z_inv, z_eq = saved = embeddings["z_inv"], embeddings["z_eq"]
    settings |= _count_settings(source.name, count, z_inv.shape[-1], z_eq.shape[-1])
    for slug, name in _LISTED.items():
        measure = functools.partial(_mean_correlation, z_inv[:, 0], z_eq[:, 0], _SHARES[slug])
        metrics.append(_metric(slug, name, jackknife(measure, count, seed)))
    dimensions = len(centred(features[:, 0]).sizes)
    settings |= {"shares of the variance": _SHARES, "rank of the features": dimensions}
    others: list[Metric] = []
    for heads, both in _by_heads(model.objective, features, saved):
        for views, pair in _by_views(both):
            for reference, pairs in _with_references(pair, dimensions, seed).items():
                others += _unlisted(pairs, [part for part in (views, heads, reference) if part])
    listed = by_slug(metrics)  # twice: they come first, with their intervals
    return Measurement(listed | by_slug(others) | listed, settings, _curves(saved, dimensions, seed))


def _by_heads(objective: Objective, features: Tensor, saved: Both) -> Iterator[tuple[str, Both]]:
    """Yields the slug's part and both embeddings for each state of the heads; `features` are (N, 3, D)."""
    yield "", saved
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in objective.modules()):
        found = []
        for views in (features[:, :1], features[:, 1:]):
            of_views = recalibrated(objective, Objective.embed, views.flatten(0, 1))
            found.append(embed(of_views, views))
        z_inv, z_eq = (torch.cat([z[name] for z in found], 1) for name in ("z_inv", "z_eq"))
        yield "recalibrated", (z_inv, z_eq)
    z_inv, z_eq = (F.normalize(z, dim=-1) for z in saved)
    yield "unit", (z_inv, z_eq)


def _by_views(both: Both) -> Iterator[tuple[str, Pair]]:
    """Yields the slug's part and the pair for each kind of views; none in which an embedding doesn't vary."""
    z_inv, z_eq = (z.double() for z in both)
    for views, of in _VIEWS.items():
        with contextlib.suppress(Constant):
            yield views, Pair(of(z_inv), of(z_eq))


def _with_references(pair: Pair, dimensions: int, seed: int) -> dict[str, list[Pair]]:
    """Returns the pair and those to compare it with, by the slug's part; their numbers are means over a list.

    There is no floor for an embedding whose rank exceeds that of the features.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {"": [pair], "shuffled": [pair.shuffled(generator)], "floor": random_pairs(pair, dimensions, generator)}
    return {reference: pairs for reference, pairs in made.items() if pairs}


def _statistics(pair: Pair) -> dict[str, float]:
    """Returns all statistics by slug, without the mean of more correlations than there are."""
    found = pair.correlations()
    by_inv, by_eq = pair.weighted()
    eq_by_inv, inv_by_eq = pair.explained()
    return {
        **{slug: float(pair.correlations(share).mean()) for slug, share in _SHARES.items()},
        "pwcca_inv": by_inv,
        "pwcca_eq": by_eq,
        "explained_eq_by_inv": eq_by_inv,
        "explained_inv_by_eq": inv_by_eq,
        "cka": pair.cka(),
        **{f"top{k}": float(found[:k].mean()) for k in _TOP if k <= len(found)},
    }


def _unlisted(pairs: Sequence[Pair], place: Sequence[str]) -> list[Metric]:
    """Returns the means of the pairs' statistics as metrics; `place` has the other parts of their slugs."""
    found = list(map(_statistics, pairs))
    words = [_PLACES[part] for part in place]
    return [
        Metric(
            "_".join((slug, *place)),
            ", ".join((_NAMES[slug], *words)),
            "",
            "redundancy",
            sum(numbers[slug] for numbers in found) / len(found),
            listed=False,
        )
        for slug in found[0]
    ]


def _curves(both: Both, dimensions: int, seed: int) -> dict[str, list[float]]:
    """Returns the correlations of base views, largest first, and those of the references."""
    z_inv, z_eq = map(_VIEWS[""], both)
    pair = Pair(z_inv, z_eq)
    found = {"SVCCA correlations": pair.correlations(_SHARES["svcca"]).tolist()}
    for reference, pairs in _with_references(pair, dimensions, seed).items():
        name = ", ".join(("canonical correlations", *([_PLACES[reference]] if reference else [])))
        found[name] = torch.stack([each.correlations() for each in pairs]).mean(0).tolist()
    return found


def _metric(slug: str, name: str, found: Estimate) -> Metric:
    return Metric(slug, name, "", "redundancy", *found)


def _rank_of(x: Tensor, rows: Tensor) -> Tensor:
    return rank_me(x[rows])


def _mean_correlation(a: Tensor, b: Tensor, share: float, rows: Tensor) -> Tensor:
    return correlations(a[rows], b[rows], share).mean()


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
