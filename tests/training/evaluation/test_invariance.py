"""What moves features: whitening against scikit-learn and plain formulas, transformations, models that see nothing.

Letters: N images, S side, D features.
"""

import json

import pytest
import torch
from torch import Tensor, nn

from star_catalog.names import slugify
from star_training.evaluation.features import NotFinite
from star_training.evaluation.protocols import invariance
from star_training.evaluation.protocols.invariance.probes import (
    GROUPS,
    TRANSFORMATIONS,
    crop,
    elastic,
    noise,
    posterize,
    rotate,
    scale,
    shear,
    translate,
)
from star_training.evaluation.record import evaluate
from star_training.evaluation.solvers.whitening import whitening
from star_zoo import objectives
from twins import build, photos, randn
from view_cases import Eye, Photos, Sees, blind, data, unchanged

# Whitening


def test_white_features_have_mean_0_and_covariance_1():
    x = randn(500, 6) @ randn(6, 6, seed=1) + 5
    whiten = whitening(x)
    white = whiten(x)
    assert whiten.shrinkage == 0 and white.shape == (500, 6)
    torch.testing.assert_close(white.mean(0), torch.zeros(6).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(white.T @ white / 500, torch.eye(6).double(), atol=1e-6, rtol=0)


def test_cosine_and_distance_are_ericssons():
    """L = chol(Sigma^-1): cos((mu - f) L, (mu - f') L) and sqrt((f - f') Sigma^-1 (f - f')^T)."""
    x = randn(500, 4) @ randn(4, 4, seed=1) + 5
    before, after = x[:50], x[:50] + randn(50, 4, seed=2)
    whiten = whitening(x)
    cosine, distance = invariance.compare(whiten(before), whiten(after))
    inverse = torch.linalg.inv(torch.cov(x.double().T, correction=0))
    chol, mu = torch.linalg.cholesky(inverse), x.double().mean(0)
    expected = nn.functional.cosine_similarity((mu - before) @ chol, (mu - after) @ chol)
    torch.testing.assert_close(cosine, expected, rtol=1e-6, atol=1e-6)
    moved = (before - after).double()
    torch.testing.assert_close(distance, (moved @ inverse * moved).sum(1).sqrt(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(30, 6), (10, 20)])
def test_few_images_shrink_the_covariance_as_in_scikit_learn(n: int, d: int):
    covariance = pytest.importorskip("sklearn.covariance")
    x = randn(n, d) @ randn(d, d, seed=1) + 3
    peer, shrinkage = covariance.ledoit_wolf(x.double().numpy())
    whiten = whitening(x)
    assert whiten.shrinkage == pytest.approx(shrinkage) and 0 < shrinkage < 1
    assert not whitening(randn(10 * d, d)).shrinkage
    moved = randn(1, d, seed=4).double()
    found = (moved @ whiten.axes).square().sum()
    expected = moved @ torch.linalg.inv(torch.from_numpy(peer)) @ moved.T
    if n > d:  # else a part of the space has no images in it: it is left out
        torch.testing.assert_close(found, expected.squeeze())
    else:
        assert whiten.axes.shape == (d, n - 1)


def test_dimensions_that_never_vary_are_left_out():
    x = randn(200, 4)
    wide = torch.cat((x, torch.full((200, 3), 2.5)), 1)
    assert whitening(wide).axes.shape == (7, 4)
    torch.testing.assert_close(whitening(wide)(wide).norm(dim=1), whitening(x)(x).norm(dim=1))
    with pytest.raises(ValueError, match="all 50 images have the same features"):
        whitening(torch.ones(50, 3))


# Transformations


@pytest.mark.parametrize("side", [32, 33, 64])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_strength_gives_other_images_of_the_same_kind(name: str, side: int):
    images = photos(3, side, side)
    kept = images.clone()
    seen = []
    for strength in TRANSFORMATIONS[name].strengths:
        found = TRANSFORMATIONS[name].apply(images, strength)
        assert found.dtype == torch.uint8 and found.shape == images.shape
        assert torch.equal(found, TRANSFORMATIONS[name].apply(images, strength))
        assert not torch.equal(found, images)
        seen.append(found)
    assert torch.equal(images, kept)
    if side == 32:
        assert all(not torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False))


def test_transformations_by_hand():
    images = photos(2, 32, 32)
    assert torch.equal(rotate(images, 90), images.rot90(1, (-2, -1)))
    assert torch.equal(rotate(images, 180), images.rot90(2, (-2, -1)))
    moved = translate(images, 1 / 4)
    assert torch.equal(moved[..., 8:, 8:], images[..., :-8, :-8]) and not moved[..., :8, :].any()
    assert torch.equal(scale(images, 1.0), images)
    assert torch.equal(noise(images, 0.0), images)
    half = scale(images, 0.5)
    assert not half[..., :7, :].any() and half[..., 10:22, 10:22].any()
    grey = TRANSFORMATIONS["grayscale"].apply(images, 1)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])


def test_a_crop_is_a_square_of_its_area_in_a_place_of_its_own():
    """Images whose red rises to the right and whose green rises downwards hold the place of every pixel."""
    ramp = torch.arange(64).float().expand(64, 64) * 4
    images = torch.stack((ramp, ramp.T, ramp), 0).to(torch.uint8).expand(200, 3, 64, 64)
    found = crop(images, 0.25).float() / 4  # 32 of 64 pixels on a side
    red, green = found[:, 0], found[:, 1]
    torch.testing.assert_close(red[:, :, -1] - red[:, :, 0], torch.full((200, 64), 31.5), atol=0.6, rtol=0)
    torch.testing.assert_close(green[:, -1] - green[:, 0], torch.full((200, 64), 31.5), atol=0.6, rtol=0)
    left = red[:, 0, 0].round()
    assert left.min() <= 1 and left.max() >= 31 and left.unique().numel() > 25  # 0 to 32, all over
    assert torch.equal(crop(images[:5], 0.25), crop(images, 0.25)[:5])  # whatever other images there are


def test_shear_posterize_and_elastic_by_hand():
    images = photos(2, 32, 32)
    odd = photos(2, 33, 33)
    sheared = shear(odd, 45.0)  # a row moves by as many pixels as it is away from the middle one, number 16
    for row in (12, 16, 20):
        moved = odd[..., row, :].roll(16 - row, -1)
        torch.testing.assert_close(sheared[..., row, 4:-4], moved[..., 4:-4], atol=1, rtol=0)
    assert torch.equal(posterize(images, 1), images // 128 * 128) and torch.equal(posterize(images, 8), images)
    assert torch.equal(elastic(images, 0.0), images)
    ramp = (torch.arange(64).float() * 4).expand(1, 3, 64, 64).to(torch.uint8)
    moved = (elastic(ramp, 1 / 32).float() - ramp.float())[..., 16:-16, 16:-16] / 4  # pixels, away from the border
    assert 0.5 < moved.std() < 4  # 2 pixels over the whole image


def test_a_group_is_the_mean_of_its_transformations():
    found = invariance.run(Sees(), data(1, 100))
    members = {group: invariance.members(group) for group in GROUPS}
    assert sorted(sum(members.values(), [])) == sorted(TRANSFORMATIONS) and all(members.values())
    for kind in ("cosine", "mahalanobis"):
        for group, names in members.items():
            values = [found.metrics[slugify(f"{kind} {name}")].value for name in names]
            assert found.metrics[f"{kind}_{group}"].value == pytest.approx(sum(values) / len(values))
    by_image = found.details["by image"]
    for name in invariance.PAIRED:
        assert len(by_image[name]) == 100
        assert sum(by_image[name]) / 100 == pytest.approx(found.metrics[f"cosine_{name}"].value, abs=1e-4)


class Grey(Eye):
    """Sees no colour."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_models_are_paired_by_image():
    """A model that sees no colour is more invariant to colour than one that does; its lead has a paired interval."""
    grey, plain = (invariance.run(Sees(backbone=eye), data(1, 100)) for eye in (Grey(), Eye()))
    lead = invariance.difference(grey.details, plain.details, "colour")
    metrics = [found.metrics["cosine_colour"] for found in (grey, plain)]
    assert lead.value == pytest.approx(metrics[0].value - metrics[1].value, abs=1e-4)
    assert lead.low is not None and lead.high is not None and lead.low > 0
    pairs = [a - b for a, b in zip(*(f.details["by image"]["colour"] for f in (grey, plain)), strict=True)]
    half = 1.96 * float(torch.tensor(pairs).std()) / len(pairs) ** 0.5
    assert lead.high - lead.value == pytest.approx(half, rel=1e-3)
    assert invariance.difference(plain.details, plain.details, "crop") == (0, 0, 0)
    fewer = {"by image": {"colour": pairs[:50]}}
    with pytest.raises(ValueError, match="100 and 50 images can't be paired"):
        invariance.difference(grey.details, fewer, "colour")


# The protocol


class Mirror(Eye):
    """Sees an image and its mirror image as the same, to the last bit."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + images.flip(-1))


def test_an_invariant_model_is_found_to_be_so():
    found = invariance.run(Sees(backbone=Mirror()), data(1, 200))
    assert found.metrics["cosine_horizontal_flip"].estimate == pytest.approx((1, 1, 1), abs=1e-12)
    assert found.metrics["mahalanobis_horizontal_flip"].estimate == (0, 0, 0)
    assert found.metrics["mahalanobis_rotation"].low > 0.5
    assert invariance.run(Sees(), data(1, 200)).metrics["mahalanobis_horizontal_flip"].low > 0.5


def test_curves_hold_every_strength_and_metrics_their_means():
    found = invariance.run(Sees(), data(1, 150))
    assert list(found.details["curves"]) == list(TRANSFORMATIONS)
    for name, curve in found.details["curves"].items():
        assert curve["strengths"] == list(TRANSFORMATIONS[name].strengths)
        for kind in ("cosine", "mahalanobis"):
            assert len(curve[kind]) == len(curve["strengths"])
            assert found.metrics[slugify(f"{kind} {name}")].value == pytest.approx(sum(curve[kind]) / len(curve[kind]))
    curve = found.details["curves"]["translation"]
    assert curve["mahalanobis"] == sorted(curve["mahalanobis"]) and curve["cosine"][0] > curve["cosine"][-1]
    others = found.settings["two different images"]
    assert abs(others["cosine"]) < 0.3 and others["Mahalanobis"] == pytest.approx((2 * 8) ** 0.5, rel=0.2)
    assert found.settings["covariance"] == "sample" and found.settings["dimensions"] == 8


@pytest.mark.parametrize("name", [None, *objectives.known()])
def test_every_model_is_measured_and_comes_back_as_it_came(name: str | None, monkeypatch):
    monkeypatch.setattr(invariance, "_MOVED", 10)
    model, splits = Sees(build(name) if name else None), data(1, 40)
    same = unchanged(model)
    first, again = (evaluate("invariance", model, splits) for _ in range(2))
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict() and same()
    assert (first.metrics, first.details) == (again.metrics, again.details)
    assert first.settings["images"] == {"transformed": 10, "covariance": 40}
    assert first.settings["covariance"].startswith("Ledoit-Wolf, shrinkage 0.")


def test_models_and_data_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="test has 19 test images; invariance needs at least 20"):
        invariance.run(Sees(), data(1, 19))
    with pytest.raises(NotFinite, match="features that are not finite"):
        invariance.run(Sees(backbone=blind()), data(1, 20))
    dark = Photos(30)
    dark.images.zero_()
    with pytest.raises(ValueError, match="all 30 images have the same features"):
        invariance.run(Sees(), data(1, test=dark))
