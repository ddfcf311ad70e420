"""The protocol equivariance, on predictors and models with known answers. Letters: N images, V views, P params."""

import json
import math

import pytest
import torch
from torch import Tensor

from star_catalog.names import slugify
from star_training.evaluation.embeddings import Viewed, base_all_and_each, view
from star_training.evaluation.features import NotFinite
from star_training.evaluation.protocols import equivariance
from star_training.evaluation.protocols.equivariance import found, travelled
from star_training.evaluation.record import evaluate
from star_zoo import objectives
from star_zoo.augmentations import Crop, Flip, Policy
from twins import MEAN, POLICY, STD, build, draws, randn
from view_cases import Eye, Photos, Sees, blind, data, unchanged


class Oracle:
    """Knows the answers: the params are the features."""

    def embed(self, features: Tensor) -> Tensor:
        return features

    def predict(self, base: Tensor, base_params: Tensor, params: Tensor) -> Tensor:
        return params


class Identity(Oracle):
    """Says that nothing changes."""

    def predict(self, base: Tensor, base_params: Tensor, params: Tensor) -> Tensor:
        return base


def viewed(images: int = 10, views: int = 50) -> Viewed:
    params = randn(images, views, 4)
    return Viewed(params, params)


ALL = torch.ones(4, dtype=torch.bool)


def test_an_oracle_finds_all_views_and_their_params():
    metrics, errors = found(Oracle(), viewed(), ALL)
    assert [metrics[name].value for name in ("MRR", "H@1", "H@5", "PRE")] == [1, 1, 1, 0]
    assert errors == [0] * 4


def test_invariance_finds_views_by_chance():
    metrics, _ = found(Identity(), viewed(), ALL)
    chance = sum(1 / k for k in range(1, 51)) / 50
    assert [metrics[name].value for name in ("MRR", "H@1", "H@5")] == pytest.approx([chance, 0.02, 0.1])
    assert metrics["MRR"].low == pytest.approx(chance) == metrics["MRR"].high  # exactly so in every image


def test_the_error_of_params_is_in_standard_deviations_of_those_that_vary():
    searched = viewed()
    scaled = searched.params * torch.tensor([1.0, 100.0, 0.01, 1.0]) + 3
    scaled[..., 3] = 7.0
    one, _ = found(Identity(), searched, torch.tensor([True, True, True, False]))
    other, errors = found(Identity(), Viewed(scaled, searched.features), torch.tensor([True, True, True, False]))
    assert other["PRE"].value == pytest.approx(one["PRE"].value, rel=1e-4) and len(errors) == 3
    assert other["PRE"].value == pytest.approx(sum(errors) / 3, rel=1e-5)


def test_the_direction_is_predicted_for_all_augmentations_and_each_alone():
    base, moved = randn(20, 6), randn(20, 3, 6, seed=1)
    views = torch.cat((base[:, None], moved), 1)
    views[:, 3] = base  # the second never acts
    perfect = travelled(Oracle(), Viewed(views, views), ["Crop", "Flip"])
    assert list(perfect) == ["absolute, all", "relative, all", "absolute, Crop", "relative, Crop"]
    assert perfect["relative, all"].value == pytest.approx(1) == perfect["relative, Crop"].value
    for k, name in ((1, "all"), (2, "Crop")):
        whole = 1 - torch.nn.functional.cosine_similarity(base, views[:, k])
        assert perfect[f"absolute, {name}"].value == pytest.approx(float(whole.mean()), rel=1e-5)
    none = travelled(Identity(), Viewed(views, views), ["Crop", "Flip"])
    assert all(metric == (0, 0, 0) for metric in none.values())


# The protocol


@pytest.fixture
def small(monkeypatch):
    for name, size in (("_TRAIN", 40), ("_TEST", 30), ("_SEARCHED", 20), ("_VIEWS", 6)):
        monkeypatch.setattr(equivariance, name, size)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", objectives.known())
def test_every_objective_is_measured(name: str):
    model, splits = Sees(build(name)), data()
    policy = model.objective.policy
    augmentations = [type(a).__name__ for a in policy.augmentations]
    same = unchanged(model)
    first, again = (evaluate("equivariance", model, splits) for _ in range(2))
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict() and same()
    assert (first.metrics, first.details) == (again.metrics, again.details)
    embeddings = model.objective.embed(randn(2, 8))
    representations = ["features", *embeddings]
    predicted = model.objective.predict(embeddings["z_eq"], draws(policy, 2)) if "z_eq" in embeddings else None
    assert list(first.details["R2"]) == [f"{n}, {r}" for r in representations for n in ("one view", "pair")]
    own = [] if predicted is None else ["own predictor, saved", "own predictor, recalibrated"]
    assert list(first.details["PRE"]) == [*own, "fitted predictor, features"]
    for predictor in first.details["PRE"]:
        of_ways = {f"{what}, {a}, {predictor}" for what in ("absolute", "relative") for a in ("all", *augmentations)}
        displayed = {metric.name for metric in first.metrics.values()}
        assert of_ways | {f"{what}, {predictor}" for what in ("MRR", "H@1", "H@5", "PRE")} <= displayed
    assert {"mrr_fitted_features", "absolute_all_fitted_features", "r2_one_mean_pair_features"} <= first.metrics.keys()
    assert all(math.isfinite(m.value) and m.low <= m.value for m in first.metrics.values() if m.low is not None)
    for what, each in first.details["R2"].items():
        assert first.metrics[slugify(f"R2 {what}")].value == pytest.approx(sum(each) / len(each))
    assert first.settings["images"] == {"training": 40, "test": 30, "searched": 20}
    assert first.settings["chance"]["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 6)
    assert "our reconstruction" in first.settings["absolute"] and first.details["params"] == list(policy.fields)


@pytest.mark.usefixtures("small")
def test_any_model_is_measured_by_its_features():
    model = Sees()
    found = equivariance.run(model, data())
    same = unchanged(model)
    assert equivariance.run(model, data()).metrics == found.metrics and same()
    assert equivariance.run(model, data(), seed=1).metrics != found.metrics
    assert list(found.details["R2"]) == ["one view, features", "pair, features"]
    assert list(found.details["PRE"]) == ["fitted predictor, features"]


CROP_AND_FLIP = Policy((Crop(16, scale=(0.3, 0.6)), Flip()), MEAN, STD)


class Ramps(Photos):
    """Every image gets redder to the right and greener downwards, so that a view shows where it comes from."""

    def __init__(self, count: int, seed: int):
        super().__init__(count, seed)
        ramp = torch.linspace(0, 200, 20)
        self.images = self.images // 8
        self.images[:, 0] += ramp.to(torch.uint8)
        self.images[:, 1] += ramp.to(torch.uint8)[:, None]


def test_params_that_can_be_seen_are_predicted():
    found = equivariance.run(Sees(backbone=Eye(40), policy=CROP_AND_FLIP), data(Ramps(300, 1), Ramps(100, 2)))
    each = dict(zip(CROP_AND_FLIP.fields, found.details["R2"]["one view, features"], strict=True))
    assert min(each["flip"], each["top"], each["left"]) > 0.75
    assert found.metrics["r2_one_view_features"].low > 0.6
    blobs = equivariance.run(Sees(backbone=Eye(40), policy=CROP_AND_FLIP), data(300, 100))
    assert abs(blobs.metrics["r2_one_view_features"].value) < 0.1  # noise looks the same everywhere


def test_flips_of_any_images_are_predicted():
    """A flip is a linear map of the coarse picture, so of features that hold all of it."""
    policy = Policy((Crop(16, scale=(1.0, 1.0), ratio=(1.0, 1.0)), Flip()), MEAN, STD)
    found = equivariance.run(Sees(backbone=Eye(48), policy=policy), data(600, 100))
    assert found.metrics["relative_flip_fitted_features"].low > 0.99
    # half of the 50 views are one picture, half the other, and all orders of equal ones are equally likely
    assert found.metrics["mrr_fitted_features"].value > 0.14
    assert found.metrics["pre_fitted_features"].value < 0.01
    assert "relative_crop_fitted_features" not in found.metrics


@pytest.mark.usefixtures("small")
def test_an_augmentation_that_never_acts_is_left_out():
    found = equivariance.run(Sees(policy=Policy((Crop(16), Flip(p=0.0)), MEAN, STD)), data())
    assert found.settings["params"] == ["top", "left", "height", "width"]
    assert "absolute_crop_fitted_features" in found.metrics
    assert not any("flip" in name for name in found.metrics)
    with pytest.raises(ValueError, match="no parameter of the policy varies"):
        equivariance.run(Sees(policy=Policy((Crop(16, scale=(1.0, 1.0), ratio=(1.0, 1.0)),), MEAN, STD)), data())


@pytest.mark.parametrize(("train", "test", "which"), [(19, 60, "train has 19 training"), (60, 3, "test has 3 test")])
def test_too_few_images_are_refused(train: int, test: int, which: str):
    with pytest.raises(ValueError, match=f"{which} images; equivariance needs at least 20"):
        equivariance.run(Sees(), data(train, test))


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(NotFinite, match="features that are not finite"):
        equivariance.run(Sees(backbone=blind()), data())


def test_views_of_an_augmentation_alone_stand_in_its_order():
    viewed = view(Sees(), Photos(3), base_all_and_each, 0)
    for k, part in enumerate(POLICY.columns.values(), start=2):
        changed = (viewed.params[:, k] != viewed.params[:, 0]).any(0)
        assert changed[part].any() and int(changed.sum()) == int(changed[part].sum())
