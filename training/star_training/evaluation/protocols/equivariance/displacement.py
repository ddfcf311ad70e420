"""Prediction of a view's representation from its base view, and how far it moves towards the view.

Letters: N images, V views of an image, B rows, D features, O width of the predicted representation,
P augmentation parameters, K inputs of the fit.
"""

import copy
import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from star_zoo import Objective

from ... import embeddings
from ...embeddings import Viewed
from ...metrics import Estimate
from ...solvers import ridge

_AXES = 64  # principal components of base features; the fitted predictor's inputs are their products with params
_BATCH = 1000  # rows that are embedded at once
_IMAGES = 50  # images whose views are predicted at once
_FLOOR = 1e-6  # smallest distance 1 - cosine


class Predictor(Protocol):
    """Predicts a representation of a view from its base view's features and its params."""

    def embed(self, features: Tensor) -> Tensor:
        """Returns the representation that is predicted, (B, D) -> (B, O); cosines are taken from its origin."""

    def predict(self, base: Tensor, base_params: Tensor, params: Tensor) -> Tensor:
        """Predicts (B, O) from base views' features (B, D), their params and the views', both (B, P) and raw."""


class Own(NamedTuple):
    """The objective's own predictor of z_eq from z_eq, as three copies of the objective."""

    of_base: Objective  # embeds base views
    of_views: Objective  # embeds the predicted views
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
    """Returns the objective's own predictor as saved: batch norms use the running statistics of all views together.

    Returns None for an objective without one; this is tried on features (B, D) and params (B, P).
    """
    frozen = copy.deepcopy(objective).cpu().eval()
    z_eq = frozen.embed(features).get("z_eq")
    return None if z_eq is None or frozen.predict(z_eq, params) is None else Own(frozen, frozen, frozen)


def recalibrated(saved: Own, base: Tensor, views: Tensor, params: Tensor) -> Own:
    """Returns the predictor as trained: batch norms use separate statistics for base views and augmented views.

    Estimates the statistics of each kind on training images (see `embeddings.recalibrated`): features (N, D) of base
    views and drawn views, with the raw params (N, P) of the drawn views.
    """
    of_base = embeddings.recalibrated(saved.of_base, Objective.embed, base)
    shifted = embeddings.recalibrated(saved.shift, Objective.predict, _in_batches(of_base, base), params)
    return Own(of_base, embeddings.recalibrated(saved.of_views, Objective.embed, views), shifted)


@torch.no_grad()
def _in_batches(objective: Objective, features: Tensor) -> Tensor:
    return torch.cat([objective.embed(rows)["z_eq"] for rows in features.split(_BATCH)])


class Fitted(NamedTuple):
    """A predictor for any model: features of the base view + W [q, q x their principal components].

    q holds the differences between the standardised params of view and base view, and their squares, so that at the
    base view's params it predicts the base view. Cosines are taken from the mean, because positive features all point
    in similar directions.
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
        """Returns the inputs of the fit: (B, K) float64."""
        q = ((params - base_params) / self.unit).double()
        q = torch.cat((q, q.square()), 1)
        components = self.embed(base).double() @ self.axes
        components = torch.cat((torch.ones_like(components[:, :1]), components), 1)
        return (q[:, :, None] * components[:, None]).flatten(1)


def fit(base: Tensor, views: Tensor, base_params: Tensor, params: Tensor) -> Fitted:
    """Fits the predictor by ridge regression to training images: features (N, D) and raw params (N, P)."""
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
    """Returns every view's representation, and its prediction from the base view, the first: (N, V, O) each."""
    actual, predicted = [], []
    for params, features in zip(*(x.split(_IMAGES) for x in viewed), strict=True):
        count = params.shape[:2]
        base, base_params = (x[:, :1].expand_as(x).flatten(0, 1) for x in (features, params))
        actual.append(predictor.embed(features.flatten(0, 1)).unflatten(0, count))
        predicted.append(predictor.predict(base, base_params, params.flatten(0, 1)).unflatten(0, count))
    return torch.cat(actual), torch.cat(predicted)


class Way(NamedTuple):
    """How far predictions move from base views towards views.

    Our reconstruction of EquiMod's absolute and relative measures (Devillers & Lefort, ICLR 2023), which the released
    code lacks.
    """

    gained: Tensor  # (N,), cos(predicted, view) - cos(base, view); its mean is the absolute measure
    whole: Tensor  # (N,), 1 - cos(base, view)

    def relative(self) -> Estimate:
        """Returns the mean of `gained` over the mean of `whole`: 1 if perfect, 0 if the base view is predicted.

        The interval of this ratio of means is by the delta method. Ratios of single images are unbounded if an
        augmentation leaves an image unchanged (e.g. grayscale on a grey image).
        """
        whole = self.whole.clamp(min=_FLOOR)
        value = self.gained.mean() / whole.mean()
        spread = ((self.gained - value * whole) / whole.mean()).std()
        half = 1.959964 * float(spread) / math.sqrt(len(whole))
        return Estimate(float(value), float(value) - half, float(value) + half)


def way(predicted: Tensor, base: Tensor, views: Tensor) -> Way:
    """Returns how far N predictions move towards N views, each (N, O), by cosine."""
    predicted, base, views = predicted.double(), base.double(), views.double()
    before = F.cosine_similarity(base, views)
    return Way(F.cosine_similarity(predicted, views) - before, 1 - before)
