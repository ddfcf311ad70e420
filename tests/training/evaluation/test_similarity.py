"""Similarity of two embeddings against numpy, scipy, scikit-learn and closed forms. Letters: N images, D, E widths."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from star_training.evaluation.solvers.similarity import Pair, centred, correlations, random_pairs
from twins import generator, randn, repeatable


def orthonormal(count: int, width: int, seed: int = 0) -> Tensor:
    """Centred orthonormal columns: (count, width) float64."""
    x = randn(count, width, seed=seed).double()
    return torch.linalg.qr(x - x.mean(0)).Q


def pair(a: Tensor, b: Tensor) -> Pair:
    return Pair(centred(a), centred(b))


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


# Statistics of a pair


def planted(r: list[float], a: list[float], b: list[float], count: int = 40) -> tuple[Tensor, Tensor]:
    """Embeddings with these canonical correlations, whose dimensions are the canonical directions in these sizes."""
    k = len(r)
    q, rho = orthonormal(count, 2 * k), torch.tensor(r, dtype=torch.float64)
    other = rho * q[:, :k] + (1 - rho.square()).sqrt() * q[:, k:]
    return q[:, :k] * torch.tensor(a, dtype=torch.float64), other * torch.tensor(b, dtype=torch.float64)


@repeatable
@given(some.lists(some.tuples(some.floats(0, 1), some.floats(0.1, 10), some.floats(0.1, 10)), min_size=1, max_size=9))
def test_planted_correlations_are_found_and_weighted_by_what_each_embedding_holds(found):
    r, a, b = (list(x) for x in zip(*found, strict=True))
    known = pair(*planted(r, a, b))
    r, a, b = (np.array(x) for x in (r, a, b))
    assert known.correlations().tolist() == pytest.approx(np.sort(r)[::-1], abs=1e-7)
    if len(set(np.round(r, 3))) == len(r):  # else the directions of equal correlations may rotate
        assert known.weighted() == pytest.approx(((a * r).sum() / a.sum(), (b * r).sum() / b.sum()), abs=1e-4)
    shares = ((b * r) ** 2).sum() / (b**2).sum(), ((a * r) ** 2).sum() / (a**2).sum()
    assert known.explained() == pytest.approx(shares, abs=1e-7)
    alike = ((a * b * r) ** 2).sum() / np.sqrt((a**4).sum() * (b**4).sum())
    assert known.cka() == pytest.approx(alike, abs=1e-7)


@pytest.fixture
def mixed() -> tuple[Tensor, Tensor]:
    a = randn(150, 5, seed=1) @ torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])) + 3
    return a, a @ randn(5, 7, seed=2) + 4 * randn(150, 7, seed=3) - 1


def test_statistics_are_those_of_their_definitions(mixed: tuple[Tensor, Tensor]):
    """Kernels for CKA, regressions for shares of variance, whitening for PWCCA, principal components for SVCCA."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    found = pair(*mixed)
    a, b = (x.double().numpy() for x in mixed)

    def explained(x: np.ndarray, y: np.ndarray) -> float:
        return r2_score(y, LinearRegression().fit(x, y).predict(x), multioutput="variance_weighted")

    assert found.explained() == pytest.approx((explained(a, b), explained(b, a)))

    centring = np.eye(150) - 1 / 150
    k, m = (centring @ x @ x.T @ centring for x in (a, b))
    assert found.cka() == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))

    a, b = a - a.mean(0), b - b.mean(0)
    whitened = [x @ np.linalg.inv(np.linalg.cholesky(x.T @ x)).T for x in (a, b)]
    u, r, v = np.linalg.svd(whitened[0].T @ whitened[1])
    canonical = whitened[0] @ u, (whitened[1] @ v.T)[:, :5]
    weights = [np.abs(h.T @ x).sum(1) for h, x in zip(canonical, (a, b), strict=True)]
    assert found.weighted() == pytest.approx(tuple((w * r).sum() / w.sum() for w in weights))

    for share in (0.99, 0.9, 0.6):
        reduced = (torch.from_numpy(PCA(share, svd_solver="full").fit_transform(x)) for x in (a, b))
        assert found.correlations(share).tolist() == pytest.approx(generalised(*reduced), abs=1e-6), share


def numbers(found: Pair) -> list[float]:
    """All statistics but PWCCA, which is defined by the dimensions."""
    return [*found.correlations().tolist(), *found.correlations(0.9).tolist(), *found.explained(), found.cka()]


def test_rotations_scales_and_shifts_change_nothing(mixed: tuple[Tensor, Tensor]):
    a, b = mixed
    turned = 3 * b @ torch.linalg.qr(randn(7, 7)).Q + 2
    assert numbers(pair(a, turned)) == pytest.approx(numbers(pair(a, b)), abs=1e-5)


def test_an_embedding_explains_all_of_its_linear_image_which_explains_a_part_of_it():
    a = orthonormal(100, 6)  # six dimensions of the same variance, of which the image keeps two
    found = pair(a, a @ randn(6, 2).double())
    assert found.explained() == pytest.approx((1, 2 / 6))
    assert found.correlations().tolist() == pytest.approx([1, 1])


# What to compare with


def test_shuffled_pairs_correlate_as_chance_says(mixed: tuple[Tensor, Tensor]):
    """Over all permutations, the mean of the sum of squared correlations is D E / (N - 1), and R2 is D / (N - 1)."""
    found, g = pair(*(x[:60] for x in mixed)), generator(0)
    shuffled = [found.shuffled(g) for _ in range(400)]
    for values, expected in (
        ([float(one.correlations().square().sum()) for one in shuffled], 5 * 7 / 59),
        ([one.explained()[0] for one in shuffled], 5 / 59),
        ([one.explained()[1] for one in shuffled], 7 / 59),
    ):
        assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / 20)
        assert np.std(values) < expected  # so that the bound above means something


def test_random_subspaces_correlate_as_geometry_says():
    def floor(rank: int, dimensions: int) -> list[Pair]:
        return random_pairs(pair(orthonormal(200, rank), orthonormal(200, rank, 1)), dimensions, generator(0))

    halves = floor(64, 128)  # the squares are distributed by the arcsine law
    assert np.mean([float(one.correlations().mean()) for one in halves]) == pytest.approx(2 / math.pi, abs=0.01)
    assert np.mean([one.explained() for one in halves]) == pytest.approx(0.5, abs=0.01)
    lines = [float(one.correlations()) for one in floor(1, 3)]  # by Archimedes, uniformly distributed
    assert len(lines) == 128 and np.mean(lines) == pytest.approx(1 / 2, abs=3 * np.sqrt(1 / 12 / 128))
    assert np.var(lines) == pytest.approx(1 / 12, rel=0.3)
    for one in floor(3, 4):  # they intersect in a plane
        assert one.correlations()[:2].tolist() == pytest.approx([1, 1]) and float(one.correlations()[2]) < 1
    assert floor(3, 2) == []
