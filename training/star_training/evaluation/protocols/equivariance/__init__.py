"""Equivariance: prediction of augmentation parameters from features, and of a view from its base view.

Letters: N images, V views of an image, P augmentation parameters, D features.

Three measurements, for any backbone; the name of a metric states its formula.
  R2         How well does a linear map predict the view's params, from the view or from base view and view?
  MRR, H@k,  Given the base view and a view's params, is the view found among the views of its image (SIE)? How far are
  PRE        the params of the nearest of all views from the given params (0 perfect, 2 chance)?
  absolute,  How far does the prediction move from the base view towards the view, for each augmentation acting alone?
  relative   These are EquiMod's measures in our reconstruction: 0 as good as invariance, relative 1 perfect.
The predictors are the objective's own shift predictor, if it has one, and for every model a linear one that is fitted
to its features in the same way.
"""

from torch import Tensor

from star_catalog.names import slugify

from ....data.eval_sets.dataset import Splits
from ....data.sources.base import Source
from ....data.sources.subset import spread
from ...embeddings import Viewed, base_all_and_each, base_and_drawn, embed, view
from ...frozen_model import FrozenModel
from ...metrics import Estimate, Measurement, Metric, NotApplicable, TooFew, by_slug, mean
from . import displacement, retrieval
from .params_r2 import fit_and_score

_TRAIN, _TEST, _SEARCHED = 6000, 1000, 200  # images: to fit on, to measure on, to retrieve views of
_VIEWS = 50  # of each image in retrieval, base view included, as in SIE
_FEWEST = 20  # images per split
_SETTINGS = {
    "R2": "ridge, strength by generalised cross-validation; mean over params of sklearn's R2",
    "R2 by one mean": "of standardised params, deviations from one scalar mean: SIE's formula",
    "absolute": "mean of cos(predicted, view) - cos(base, view): our reconstruction of EquiMod's",
    "relative": "absolute / mean of 1 - cos(base, view): our reconstruction of EquiMod's, as a ratio of means",
    "own predictor, saved": "eval mode: batch norms with the running statistics of all views together",
    "own predictor, recalibrated": "batch norms with statistics of training images' base and drawn views apart",
    "fitted predictor": "base + W [q, q x 64 principal components of base], q = params' differences and their "
    "squares; ridge on training images; cosines from the mean of features",
}


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns all three measurements on views of test images; predictors are fitted to views of training images."""
    training, held_out = _enough(splits.train, "training"), _enough(splits.test, "test")
    test = view(model, spread(held_out, _TEST), base_all_and_each, seed, 1)
    train = view(model, spread(training, _TRAIN), base_and_drawn(1), seed, 0)
    searched = view(model, spread(held_out, _SEARCHED), base_and_drawn(_VIEWS - 1), seed, 2)
    varied = train.params[:, 1].std(0) > 0  # (P,)
    fields = [name for name, varies in zip(model.policy.fields, varied.tolist(), strict=True) if varies]
    if not fields:
        raise NotApplicable("no parameter of the policy varies, so there is nothing to be equivariant to")

    metrics, r2 = _params(model, train, test, varied, seed)
    errors = {}
    for name, predictor in _predictors(model, train).items():
        measured, errors[name] = found(predictor, searched, varied)
        measured |= travelled(predictor, test, list(model.policy.columns))
        metrics += [_metric(f"{what}, {name}", estimate) for what, estimate in measured.items()]
    settings = {
        "images": {"training": len(train.params), "test": len(test.params), "searched": len(searched.params)},
        "views of a searched image": _VIEWS,
        "params": fields,
        "chance": {"R2": 0.0, **retrieval.chance(_VIEWS), "PRE": 2.0, "absolute": 0.0, "relative": 0.0},
        **_SETTINGS,
    }
    return Measurement(by_slug(metrics), settings, {"params": fields, "R2": r2, "PRE": errors})


def _metric(name: str, found: Estimate, unit: str = "") -> Metric:
    """Returns a metric whose slug is its name without "predictor" and "by", e.g. mrr_own_saved."""
    words = name.replace(" predictor", "").replace(" by ", " ").replace("H@", "hit")
    return Metric(slugify(words), name, unit, "equivariance", *found)


def _enough(source: Source, which: str) -> Source:
    if len(source) < _FEWEST:
        raise TooFew(f"{source.name} has {len(source)} {which} images; equivariance needs at least {_FEWEST}")
    return source


def _params(
    model: FrozenModel, train: Viewed, test: Viewed, varied: Tensor, seed: int
) -> tuple[list[Metric], dict[str, list[float]]]:
    """Returns the R2 metrics of drawn views' params, and R2 by param.

    The inputs are one view or a pair of views, as features and as each embedding.
    """
    targets, truth = train.params[:, 1, varied], test.params[:, 1, varied]
    pairs, asked = train.features, test.features[:, :2]
    representations = {"features": (pairs, asked)}
    known = embed(model.objective, asked)
    representations |= {name: (z, known[name]) for name, z in embed(model.objective, pairs).items()}
    metrics: list[Metric] = []
    by_param: dict[str, list[float]] = {}
    for name, (x, held_out) in representations.items():
        inputs = {f"one view, {name}": (x[:, 1], held_out[:, 1]), f"pair, {name}": (x.flatten(1), held_out.flatten(1))}
        for what, (fitted, measured) in inputs.items():
            r2 = fit_and_score(fitted, targets, measured, truth, seed)
            metrics += [_metric(f"R2, {what}", r2.mean, "R2"), _metric(f"R2 by one mean, {what}", r2.one_mean, "R2")]
            by_param[what] = r2.each.tolist()
    return metrics, by_param


def _predictors(model: FrozenModel, train: Viewed) -> dict[str, displacement.Predictor]:
    """Returns the predictors by name."""
    (base, drawn), (base_params, params) = train.features.unbind(1), train.params.unbind(1)
    made: dict[str, displacement.Predictor] = {}
    saved = None if model.objective is None else displacement.own(model.objective, base[:1], params[:1])
    if saved is not None:
        made["own predictor, saved"] = saved
        made["own predictor, recalibrated"] = displacement.recalibrated(saved, base, drawn, params)
    made["fitted predictor, features"] = displacement.fit(base, drawn, base_params, params)
    return made


def found(
    predictor: displacement.Predictor, searched: Viewed, varied: Tensor
) -> tuple[dict[str, Estimate], list[float]]:
    """Returns MRR, H@1, H@5 and PRE over all views, each predicted from its base view, and PRE by param."""
    views, predicted = displacement.predict_all(predictor, searched)
    ranks = retrieval.ranks(predicted, views)
    params = searched.params[..., varied]
    standardised = (params - params.mean((0, 1))) / params.flatten(0, 1).std(0).clamp(min=1e-12)
    errors = retrieval.parameter_errors(predicted.flatten(0, 1), views.flatten(0, 1), standardised.flatten(0, 1))
    of_views = {
        "MRR": ranks.reciprocal(),
        "H@1": ranks.hits(1),
        "H@5": ranks.hits(5),
        "PRE": errors.mean(1).view(ranks.better.shape),
    }
    # images are independent, the views of one image are not
    return {name: mean(values.mean(1)) for name, values in of_views.items()}, errors.mean(0).tolist()


def travelled(predictor: displacement.Predictor, test: Viewed, augmentations: list[str]) -> dict[str, Estimate]:
    """Returns the absolute and the relative measure for all augmentations together and for each one alone."""
    views, predicted = displacement.predict_all(predictor, test)
    metrics = {}
    for k, augmentation in enumerate(("all", *augmentations), start=1):
        if not test.params[:, k].equal(test.params[:, 0]):  # else it never acts
            way = displacement.way(predicted[:, k], views[:, 0], views[:, k])
            metrics[f"absolute, {augmentation}"] = mean(way.gained)
            metrics[f"relative, {augmentation}"] = way.relative()
    return metrics
