"""Redundancy of views with a planted structure, effective rank and the jackknife, against numpy and closed forms."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from star_catalog.names import slugify
from star_training.evaluation.embeddings import Viewed
from star_training.evaluation.features import NotFinite
from star_training.evaluation.protocols import redundancy
from star_training.evaluation.record import evaluate
from star_training.evaluation.solvers.effective_rank import rank_me
from star_training.evaluation.solvers.jackknife import jackknife
from star_training.evaluation.solvers.similarity import correlations
from star_zoo import Objective, Policy, objectives
from twins import POLICY, build, randn
from view_cases import Sees, blind, data, unchanged

# RankMe


def test_rank_me_of_known_singular_values():
    q = torch.linalg.qr(randn(50, 4)).Q
    assert float(rank_me(q)) == pytest.approx(4)
    assert float(rank_me(q[:, :1] @ randn(1, 7, seed=1))) == pytest.approx(1, abs=1e-4)
    shares = (0.75, 0.25)
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert float(rank_me(q[:, :2] * torch.tensor([3.0, 1.0]))) == pytest.approx(expected)
    assert 1 < float(rank_me(randn(5, 20))) <= 5
    with pytest.raises(ValueError, match="all features are 0"):
        rank_me(torch.zeros(9, 3))


# The interval


def test_the_jackknife_of_a_mean_is_its_t_interval():
    values = randn(400)
    found = jackknife(lambda rows: values[rows].mean(), 400, seed=0)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    groups = values[order].view(20, 20).mean(1)
    stats = pytest.importorskip("scipy.stats")
    half = stats.t(19).ppf(0.975) * float(groups.std()) / math.sqrt(20)
    assert (found.value, found.low, found.high) == pytest.approx(
        (float(values.mean()), float(values.mean()) - half, float(values.mean()) + half), rel=1e-4
    )
    assert jackknife(lambda rows: values[rows].mean(), 39, 0) == (float(values[:39].mean()), None, None)


def test_the_interval_of_correlations_holds_what_other_images_give():
    """Nineteen times in twenty it holds the mean over many samples of the same size."""

    def sample(seed: int) -> tuple[Tensor, Tensor]:
        a = randn(200, 3, seed=seed)
        return a, a * torch.tensor([1.0, 0.5, 0.2]) + randn(200, 3, seed=10_000 + seed)

    expected = sum(float(correlations(*sample(k)).mean()) for k in range(200)) / 200
    held = 0
    for seed in range(60):
        a, b = sample(1000 + seed)
        found = jackknife(lambda rows, a=a, b=b: correlations(a[rows], b[rows]).mean(), 200, seed)
        held += found.low <= expected <= found.high
    assert 51 <= held <= 60


# The protocol


SLUGS = [  # of one kind of views
    "cca", "svcca", "svcca_95", "svcca_90", "svcca_80", "pwcca_inv", "pwcca_eq",
    "explained_eq_by_inv", "explained_inv_by_eq", "cka", "top8", "top16", "top32",
]  # fmt: skip
VIEWS, HEADS, REFERENCES = ("", "_drawn", "_drawn_between", "_drawn_within"), ("", "_recalibrated", "_unit"), (
    "", "_shuffled", "_floor"
)  # fmt: skip


@pytest.mark.parametrize("name", objectives.known())
def test_every_objective_is_measured(name: str):
    model, splits = Sees(build(name)), data(1, 300)
    same = unchanged(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", redundancy.FewImagesWarning)
        found = evaluate("redundancy", model, splits)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict() and same()
    names = list(model.objective.embed(randn(2, 8)))
    ranks = ["rankme_features", *(f"rankme_{slugify(z)}" for z in names)]
    if not {"z_inv", "z_eq"} <= set(names):
        assert list(found.metrics) == ranks and found.details == {}
        return
    assert [metric.slug for metric in found.listed] == list(found.metrics)[: len(ranks) + 2] == [*ranks, "cca", "svcca"]

    def slugs(statistics: list[str], references: tuple[str, ...]) -> set[str]:
        return {"".join(parts) for parts in itertools.product(statistics, VIEWS, HEADS, references)}

    # an embedding may have fewer dimensions than the largest correlations, or more than the features
    assert slugs(SLUGS[:-3], ("", "_shuffled")) <= found.metrics.keys() <= {*ranks, *slugs(SLUGS, REFERENCES)}
    assert all(0 <= metric.value <= 1 + 1e-9 for slug, metric in found.metrics.items() if slug not in ranks)
    for kind, slug in (("canonical", "cca"), ("SVCCA", "svcca")):
        curve = found.details[f"{kind} correlations"]
        assert found.metrics[slug].value == pytest.approx(sum(curve) / len(curve))
        assert curve == sorted(curve, reverse=True) and all(0 <= r <= 1 for r in curve)


def test_the_same_seed_gives_the_same_numbers():
    first, again = (redundancy.run(Sees(Twice(POLICY)), data(1, 100), seed=3) for _ in range(2))
    assert (first.metrics, first.details) == (again.metrics, again.details)


def test_a_model_without_embeddings_has_a_rank():
    found = redundancy.run(Sees(), data(1, 50))
    assert list(found.metrics) == ["rankme_features"] and 1 < found.metrics["rankme_features"].value <= 8


class Halves(Objective):
    """z_inv is the first half of the features, z_eq the second."""

    def embed(self, x: Tensor) -> dict[str, Tensor]:
        return {"z_inv": x[:, :4], "z_eq": x[:, 4:]}


class Twice(Objective):
    """Both embeddings are the features."""

    def embed(self, x: Tensor) -> dict[str, Tensor]:
        return {"z_inv": x, "z_eq": 2 * x + 1}


def test_the_protocol_knows_equal_embeddings_and_says_what_chance_is():
    found = redundancy.run(Sees(Twice(POLICY)), data(1, 400))
    assert found.metrics["cca"].estimate == pytest.approx((1, 1, 1))
    for views in VIEWS:
        assert found.metrics["explained_eq_by_inv" + views].value == pytest.approx(1)
        # of images in random order, 8 of 399 dimensions of variation
        assert found.metrics[f"explained_eq_by_inv{views}_shuffled"].value == pytest.approx(8 / 399, rel=0.5)
    assert found.metrics["cca_floor"].value == pytest.approx(1)  # eight of eight dimensions
    curves = [f"canonical correlations, {reference}" for reference in ("shuffled pairs", "random subspaces")]
    assert [sum(found.details[name]) / 8 for name in curves] == pytest.approx(
        [found.metrics["cca_shuffled"].value, found.metrics["cca_floor"].value]
    )
    assert "warning" not in found.settings and found.settings["images"] == 400
    assert found.metrics["rankme_z_inv"].estimate == found.metrics["rankme_features"].estimate


def planted(monkeypatch: pytest.MonkeyPatch, features: Tensor) -> None:
    """Has the protocol see these features (N, 3, 8) of base views and two random views."""
    monkeypatch.setattr(redundancy, "view", lambda *arguments: Viewed(torch.zeros(len(features), 3, 1), features))


def between_and_within(z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Deviations of the images' means from their mean, and of both views from their image's mean: (N, E), (2N, E)."""
    views = z[:, 1:].double().numpy()
    means = views.mean(1, keepdims=True)
    return (means - means.mean(0))[:, 0], (views - means).reshape(-1, z.shape[-1])


def test_the_parts_between_and_within_images_are_separate(monkeypatch: pytest.MonkeyPatch):
    """The embeddings share the content of images and nothing of the augmentations, or the other way round."""
    shared, own, n = randn(400, 1, 4), randn(400, 1, 4, seed=1), 400
    moved, others = 0.5 * randn(n, 3, 4, seed=2), 0.5 * randn(n, 3, 4, seed=3)
    moved[:, 0] = others[:, 0] = 0  # base views are not augmented
    for of_eq, expected in ((shared + others, (1, 0.05)), (own + moved, (0.05, 1))):
        z_inv, z_eq = shared + moved, of_eq @ randn(4, 4, seed=4)
        planted(monkeypatch, torch.cat((z_inv, z_eq), 2))
        found = {slug: m.value for slug, m in redundancy.run(Sees(Halves(POLICY)), data(1, 1)).metrics.items()}
        assert (found["cca"], found["cca_drawn_within"]) == pytest.approx(expected, abs=0.06)
        views = dict(zip(VIEWS[2:], zip(*map(between_and_within, (z_inv, z_eq)), strict=True), strict=True))
        views[""], views["_drawn"] = ([(z - z.mean(0))[:, k].numpy() for z in (z_inv, z_eq)] for k in (0, 1))
        for part, (a, b) in views.items():
            fitted = a @ np.linalg.lstsq(a, b, rcond=None)[0]
            assert found[f"explained_eq_by_inv{part}"] == pytest.approx((fitted**2).sum() / (b**2).sum(), rel=1e-4)
            inner = [np.square(x.T @ y).sum() for x, y in ((a, b), (a, a), (b, b))]
            assert found[f"cka{part}"] == pytest.approx(inner[0] / np.sqrt(inner[1] * inner[2]), rel=1e-4)


def test_a_part_in_which_an_embedding_never_varies_is_left_out(monkeypatch: pytest.MonkeyPatch):
    planted(monkeypatch, randn(100, 1, 8).expand(100, 3, 8))
    found = redundancy.run(Sees(Halves(POLICY)), data(1, 1)).metrics
    assert found["cca_drawn"].value == found["cca_drawn_between"].value == found["cca"].value
    assert not [slug for slug in found if "within" in slug]


class Normed(Objective):
    """z_inv is the features after batch norm and a ReLU, z_eq the features."""

    def __init__(self, policy: Policy):
        super().__init__(policy)
        self.norm = torch.nn.BatchNorm1d(8)

    def embed(self, x: Tensor) -> dict[str, Tensor]:
        return {"z_inv": self.norm(x).relu(), "z_eq": x}


def test_recalibrated_heads_have_the_statistics_of_the_measured_views(monkeypatch: pytest.MonkeyPatch):
    features = randn(200, 3, 8) @ randn(8, 8, seed=1)
    features[:, 1:] = 3 * features[:, 1:] + 2
    planted(monkeypatch, features)
    found = redundancy.run(Sees(Normed(POLICY)), data(1, 1)).metrics
    for part, views in (("", features[:, 0]), ("_drawn", features[:, 1:].flatten(0, 1))):
        right = Normed(POLICY)
        right.norm.running_mean, right.norm.running_var = views.mean(0), views.var(0)
        expected = redundancy.run(Sees(right), data(1, 1)).metrics
        for slug in ("cca", "pwcca_inv", "explained_inv_by_eq", "cka"):
            value = found[f"{slug}{part}_recalibrated"].value
            assert value == pytest.approx(expected[slug + part].value, rel=1e-4)
            assert value != pytest.approx(found[slug + part].value, rel=1e-3)
    assert not [slug for slug in redundancy.run(Sees(Halves(POLICY)), data(1, 1)).metrics if "recalibrated" in slug]


def test_embeddings_of_unit_length_differ_by_direction_alone(monkeypatch: pytest.MonkeyPatch):
    directions, lengths = randn(300, 3, 8), 10 ** randn(300, 3, 1, seed=1)
    planted(monkeypatch, torch.cat((directions[..., :4], (directions @ randn(8, 4, seed=2)) * lengths), 2))
    found = redundancy.run(Sees(Halves(POLICY)), data(1, 1)).metrics
    unit = [F.normalize(z, dim=-1) for z in (directions[..., :4], directions @ randn(8, 4, seed=2))]
    planted(monkeypatch, torch.cat(unit, 2))
    expected = redundancy.run(Sees(Halves(POLICY)), data(1, 1)).metrics
    for slug in (name + views for name in SLUGS[:-3] for views in VIEWS):
        assert found[f"{slug}_unit"].value == pytest.approx(expected[slug].value, rel=1e-4), slug
    assert found["cca_unit"].value > found["cca"].value + 0.1


def test_few_images_are_warned_of_and_too_few_refused():
    with pytest.warns(redundancy.FewImagesWarning, match="39 test images for embeddings of 4 dimensions"):
        found = redundancy.run(Sees(Halves(POLICY)), data(1, 39))
    assert "fewer than 10 images per dimension" in found.settings["warning"]
    assert "warning" not in redundancy.run(Sees(Halves(POLICY)), data(1, 40)).settings
    with pytest.raises(ValueError, match="test has 8 test images for embeddings of 4 and 4 dimensions: .* at least 9"):
        redundancy.run(Sees(Halves(POLICY)), data(1, 8))


def test_more_images_than_needed_are_sampled(monkeypatch):
    monkeypatch.setattr(redundancy, "_IMAGES", 30)
    assert redundancy.run(Sees(), data(1, 50)).settings["images"] == 30


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(NotFinite, match="features that are not finite"):
        redundancy.run(Sees(backbone=blind()), data(1, 20))
