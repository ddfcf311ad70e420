"""Canonical correlations and effective rank, against scipy and closed forms. Letters: N images, D, E widths."""

import json
import math
import warnings

import pytest
import torch
from torch import Tensor

from star_catalog.names import slugify
from star_training.evaluation.features import NotFinite
from star_training.evaluation.protocols import redundancy
from star_training.evaluation.record import evaluate
from star_training.evaluation.solvers.cca import correlations, jackknife, rank_me
from star_zoo import Objective, objectives
from twins import POLICY, build, randn
from view_cases import Sees, blind, data, unchanged


def generalised(a: Tensor, b: Tensor) -> list[float]:
    """Canonical correlations as the eigenvalues r^2 of Sab Sbb^-1 Sba w = r^2 Saa w."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    saa, sbb, sab = (x.T.numpy() @ y.numpy() for x, y in ((a, a), (b, b), (a, b)))
    found = linalg.eigh(sab @ linalg.solve(sbb, sab.T), saa, eigvals_only=True)[::-1]
    return [math.sqrt(max(0.0, r)) for r in found[: min(a.shape[1], b.shape[1])]]


@pytest.mark.parametrize(("n", "d", "e"), [(50, 3, 3), (200, 5, 8), (200, 8, 5), (60, 20, 10), (30, 1, 1)])
def test_correlations_are_those_of_the_generalised_eigenproblem(n: int, d: int, e: int):
    a = randn(n, d, seed=1)
    b = a @ randn(d, e, seed=2) + 2 * randn(n, e, seed=3) + 5
    assert correlations(a, b).tolist() == pytest.approx(generalised(a, b), abs=1e-6)


def test_one_dimension_each_is_pearson():
    a, b = torch.tensor([[1.0], [2.0], [3.0], [6.0]]), torch.tensor([[2.0], [1.0], [0.0], [-9.0]])
    expected = abs(float(torch.corrcoef(torch.cat((a, b), 1).T)[0, 1]))
    assert correlations(a, b).tolist() == pytest.approx([expected])


def test_equal_embeddings_correlate_fully_and_so_do_all_linear_images_of_them():
    x = randn(300, 6)
    for other in (x, x @ randn(6, 6, seed=1) + 3, x * 1e-3):
        assert correlations(x, other).tolist() == pytest.approx([1.0] * 6)


def test_independent_embeddings_correlate_as_chance_says():
    """Independent Gaussians: the sum of squared correlations is D E / (N - 1) on average."""
    n, d, e = 100, 6, 9
    sums = [float(correlations(randn(n, d, seed=k), randn(n, e, seed=1000 + k)).square().sum()) for k in range(200)]
    standard_error = float(torch.tensor(sums).std()) / math.sqrt(len(sums))
    assert sum(sums) / len(sums) == pytest.approx(d * e / (n - 1), abs=4 * standard_error)


def test_no_more_images_than_dimensions_correlate_fully():
    assert correlations(randn(8, 10), randn(8, 10, seed=1)).tolist() == pytest.approx([1.0] * 7)


@pytest.mark.parametrize("useless", [torch.zeros, torch.ones, lambda *shape: torch.full(shape, 1e4)])
def test_dimensions_that_never_vary_change_nothing(useless):
    a, b = randn(300, 4), randn(300, 3, seed=1)
    b[:, 0] += a[:, 0]
    expected = correlations(a, b).tolist()
    a, b = (torch.cat((x, useless(300, 2)), 1) for x in (a, b))
    assert correlations(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_rounding_of_a_constant_is_no_correlation():
    a, b = randn(300, 2), randn(300, 2, seed=1)
    rounded = 1e4 + 1e-3 * randn(300, 1, seed=2)
    assert float(rounded.std()) > 0
    a, b = (torch.cat((x, rounded), 1) for x in (a, b))
    assert float(correlations(a, b).max()) < 0.3


def test_dimensions_that_only_repeat_others_change_nothing():
    a, b = randn(300, 4), randn(300, 3, seed=1)
    assert correlations(torch.cat((a, a[:, :2] * 3), 1), b).tolist() == pytest.approx(correlations(a, b).tolist())


def test_an_embedding_that_never_varies_is_refused():
    with pytest.raises(ValueError, match="the same for all images"):
        correlations(randn(50, 3), torch.ones(50, 3))


def test_svcca_looks_at_the_variance_that_matters():
    loud, quiet = randn(500, 2), 1e-2 * randn(500, 3, seed=1)
    a = torch.cat((loud, quiet), 1)
    b = torch.cat((randn(500, 2, seed=2), quiet), 1)
    assert correlations(a, b)[:3].tolist() == pytest.approx([1.0] * 3)  # the quiet dimensions are the same
    kept = correlations(a, b, variance=0.99)
    assert len(kept) == 2 and float(kept.max()) < 0.2
    assert correlations(a, b, variance=0.999999).tolist() == pytest.approx(correlations(a, b).tolist())


def test_the_fewest_components_that_hold_the_variance_are_kept():
    q = torch.linalg.qr(randn(400, 4) - randn(400, 4).mean(0)).Q.double()
    q = torch.linalg.qr(q - q.mean(0)).Q
    x = q * torch.tensor([8.0, 5.0, 3.0, math.sqrt(2)], dtype=torch.float64)  # variances 64, 25, 9, 2 of 100
    for share, count in ((0.5, 1), (0.63, 1), (0.65, 2), (0.88, 2), (0.95, 3), (0.99, 4)):
        assert len(correlations(x, x, share)) == count, share


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

    expected = sum(float(correlations(*sample(k)).mean()) for k in range(400)) / 400
    held = 0
    for seed in range(150):
        a, b = sample(1000 + seed)
        found = jackknife(lambda rows, a=a, b=b: correlations(a[rows], b[rows]).mean(), 200, seed)
        held += found.low <= expected <= found.high
    assert 130 <= held <= 150


# The protocol


@pytest.mark.parametrize("name", objectives.known())
def test_every_objective_is_measured(name: str):
    model, splits = Sees(build(name)), data(1, 300)
    same = unchanged(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", redundancy.FewImagesWarning)
        first, again = (evaluate("redundancy", model, splits) for _ in range(2))
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict() and same()
    assert (first.metrics, first.details) == (again.metrics, again.details)
    names = list(model.objective.embed(randn(2, 8)))
    ranks = ["rankme_features", *(f"rankme_{slugify(z)}" for z in names)]
    if not {"z_inv", "z_eq"} <= set(names):
        assert list(first.metrics) == ranks and first.details == {}
        return
    assert list(first.metrics) == [*ranks, "cca", "svcca"]
    for kind, slug in (("canonical", "cca"), ("SVCCA", "svcca")):
        found = first.details[f"{kind} correlations"]
        assert first.metrics[slug].value == pytest.approx(sum(found) / len(found))
        assert found == sorted(found, reverse=True) and all(0 <= r <= 1 for r in found)


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
    assert 0.02 < found.settings["mean canonical correlation of shuffled pairs"] < 0.3
    assert "warning" not in found.settings and found.settings["images"] == 400
    assert found.metrics["rankme_z_inv"].estimate == found.metrics["rankme_features"].estimate


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
