"""Predicting a view's representation from its base view, and how much of the way such a prediction goes.

Letters: N images, V views of an image, B rows, D features, O width of what is predicted, P augmentation parameters,
K inputs of the fit.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_zoo import Objective

from ...embeddings import Viewed
from ...metrics import Metric
from ...solvers import ridge

_AXES = 64  # principal components of the base views' features whose products with params the fitted predictor sees
_BATCH = 1000  # rows behind one estimate of batch statistics
_IMAGES = 50  # whose views are predicted at once
_FLOOR = 1e-6  # of a distance 1 - cosine


class Predictor(Protocol):
    """What predicts something of a view, from the features of its base view and its params."""

    def embed(self, features: Tensor) -> Tensor:
        """What is to be predicted, of a view's features: (B, D) -> (B, O); cosines are taken from its origin."""

    def predict(self, base: Tensor, base_params: Tensor, params: Tensor) -> Tensor:
        """Base views' features (B, D), their params and the views', both (B, P) and raw -> (B, O)."""


class Own(NamedTuple):
    """The predictor that an objective was trained with: of z_eq, from z_eq. Three copies of one objective."""

    of_base: Objective  # embeds base views
    of_views: Objective  # embeds the views that are predicted
    shift: Objective  # predicts

    @torch.no_grad()
    def embed(self, features: Tensor) -> Tensor:
        return self.of_views.embed(features)["z_eq"]

    @torch.no_grad()
    def predict(self, base: Tensor, base_params: Tensor, params: Tensor) -> Tensor:
        predicted = self.shift.predict(self.of_base.embed(base)["z_eq"], params)
        assert predicted is not None  # `own` tried it
        return predicted


@torch.no_grad()
def own(objective: Objective, features: Tensor, params: Tensor) -> Own | None:
    """The objective's own predictor as saved: batch norms with the running statistics of all views together.

    None for an objective without one, which is tried out on some features (B, D) and params (B, P).
    """
    frozen = copy.deepcopy(objective).cpu().eval()
    z_eq = frozen.embed(features).get("z_eq")
    return None if z_eq is None or frozen.predict(z_eq, params) is None else Own(frozen, frozen, frozen)


def recalibrated(saved: Own, base: Tensor, views: Tensor, params: Tensor) -> Own:
    """As trained: batch norms see base views on their own and augmented views on their own.

    In training each forward normalises one kind of view by its own statistics; the running ones mix both kinds, and
    fit neither. Here they are measured, for each kind, on training images: features (N, D) of base views and drawn
    views, with the raw params (N, P) of the latter. Source: precise batch norm, Wu & Johnson (2021).
    """
    of_base = _measured(saved.of_base, Objective.embed, base)
    shifted = _measured(saved.shift, Objective.predict, _in_batches(of_base, base), params)
    return Own(of_base, _measured(saved.of_views, Objective.embed, views), shifted)


@torch.no_grad()
def _measured(objective: Objective, method: Callable[..., Any], *inputs: Tensor) -> Objective:
    """A copy in eval mode whose batch norms hold the statistics that a method of it meets on inputs (N, ...)."""
    measured = copy.deepcopy(objective)
    for norm in measured.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
    for batch in zip(*(x.chunk(math.ceil(len(x) / _BATCH)) for x in inputs), strict=True):
        getattr(measured, method.__name__)(*batch)
    return measured.eval()


@torch.no_grad()
def _in_batches(objective: Objective, features: Tensor) -> Tensor:
    return torch.cat([objective.embed(rows)["z_eq"] for rows in features.split(_BATCH)])


class Fitted(NamedTuple):
    """A predictor that any model can have: features of the base view + W [q, q x their principal components].

    q are the differences of standardised params from the base view's, and the squares of those: at the base view's
    params it predicts the base view. Cosines are taken from the mean, because features that are positive all point
    the same way.
    """

    centre: Tensor  # (D,), mean of the training views' features
    axes: Tensor  # (D, up to 64), scaled so that components have variance 1
    unit: Tensor  # (P,), standard deviation of params
    weights: Tensor  # (K, D)

    def embed(self, features: Tensor) -> Tensor:
        return features - self.centre

    def predict(self, base: Tensor, base_params: Tensor, params: Tensor) -> Tensor:
        return self.embed(base) + self.inputs(base, base_params, params) @ self.weights

    def inputs(self, base: Tensor, base_params: Tensor, params: Tensor) -> Tensor:
        """(B, K) float64."""
        q = ((params - base_params) / self.unit).double()
        q = torch.cat((q, q.square()), 1)
        components = self.embed(base).double() @ self.axes
        components = torch.cat((torch.ones_like(components[:, :1]), components), 1)
        return (q[:, :, None] * components[:, None]).flatten(1)


def fit(base: Tensor, views: Tensor, base_params: Tensor, params: Tensor) -> Fitted:
    """The fitted predictor: ridge in closed form on training images, features (N, D) and raw params (N, P)."""
    centre = torch.cat((base, views)).mean(0)
    unit = params.std(0)
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    _, sizes, axes = torch.linalg.svd((base - centre).double(), full_matrices=False)
    count = int((sizes[:_AXES] > 1e-6 * sizes[0]).sum())
    scaled = axes[:count].T / sizes[:count] * math.sqrt(len(base))
    unfitted = Fitted(centre, scaled, unit, torch.empty(0))
    weights = ridge.solve(unfitted.inputs(base, base_params, params), (views - base).double())
    return unfitted._replace(weights=weights)


def predict_all(predictor: Predictor, viewed: Viewed) -> tuple[Tensor, Tensor]:
    """Every view as it is and as it is predicted from the first view of its image, the base view: (N, V, O) each."""
    actual, predicted = [], []
    for params, features in zip(*(x.split(_IMAGES) for x in viewed), strict=True):
        count = params.shape[:2]
        base, base_params = (x[:, :1].expand_as(x).flatten(0, 1) for x in (features, params))
        actual.append(predictor.embed(features.flatten(0, 1)).unflatten(0, count))
        predicted.append(predictor.predict(base, base_params, params.flatten(0, 1)).unflatten(0, count))
    return torch.cat(actual), torch.cat(predicted)


class Way(NamedTuple):
    """How far predictions go from base views to views.

    Our reconstruction of EquiMod's absolute and relative measures (Devillers & Lefort, ICLR 2023), whose code does
    not hold them.
    """

    gained: Tensor  # (N,), cos(predicted, view) - cos(base, view); its mean is the absolute measure
    whole: Tensor  # (N,), 1 - cos(base, view)

    def relative(self) -> Metric:
        """The mean gain over the mean way: 1 for perfect predictions, 0 if the base view itself is predicted.

        A ratio of means, its interval by the delta method: single ratios have no bound where a single image (a grey
        one, turned grey) stays as it was.
        """
        whole = self.whole.clamp(min=_FLOOR)
        value = self.gained.mean() / whole.mean()
        spread = ((self.gained - value * whole) / whole.mean()).std()
        half = 1.959964 * float(spread) / math.sqrt(len(whole))
        return Metric(float(value), float(value) - half, float(value) + half)


def way(predicted: Tensor, base: Tensor, views: Tensor) -> Way:
    """The way of N predictions towards N views, each (N, O), by cosine."""
    predicted, base, views = predicted.double(), base.double(), views.double()
    before = F.cosine_similarity(base, views)
    return Way(F.cosine_similarity(predicted, views) - before, 1 - before)
