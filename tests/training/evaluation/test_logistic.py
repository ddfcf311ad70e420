"""Ridge logistic regression, against scikit-learn and certified optima.

Letters: N images, D features, C classes, R = D + 1.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eval_cases import blobs
from star_training.benchmarks.linear.compare import objective
from star_training.evaluation.features import Labelled
from star_training.evaluation.protocols.linear import STRENGTHS
from star_training.evaluation.solvers import logistic, preconditioner
from star_training.evaluation.solvers.logistic import Fit, Logistic, with_ones
from twins import randn


def path(problem: Logistic, strengths: Sequence[float], tolerance: float) -> dict[float, Fit]:
    return {fit.strength: fit for fit in problem.path(strengths, tolerance)}


def separable() -> Labelled:
    return blobs(90, classes=3, spread=0.01)


def overlapping() -> Labelled:
    return blobs(600, classes=4, width=6, spread=1.5)


def wide() -> Labelled:
    """More features than images, so the features' rank is N at most."""
    return blobs(40, classes=3, width=80, spread=1.5)


def repeated() -> Labelled:
    """Features that are sums of others."""
    features, labels = blobs(200, spread=1.5)
    return Labelled(torch.cat((features, features[:, :2] + features[:, 2:4], 3 * features), 1), labels)


def constant() -> Labelled:
    """A constant feature, a zero one, and a mean that is large beside what varies."""
    features, labels = blobs(200, spread=1.5)
    return Labelled(torch.cat((features + 300, torch.full((200, 1), 7.0), torch.zeros(200, 1)), 1), labels)


def singletons() -> Labelled:
    """Twenty classes of one image, and two of many."""
    features, labels = blobs(120, classes=2, width=8, spread=1.5)
    return Labelled(features, torch.where(torch.arange(120) < 20, torch.arange(120) + 2, labels))


def unseen() -> Labelled:
    """Labels that leave out classes below the largest."""
    features, labels = blobs(90, spread=1.5)
    return Labelled(features, 3 * labels + 1)


CASES = (separable, overlapping, wide, repeated, constant, unseen)


# float32 is not for twenty images in the midst of a hundred others, separated from them by logits of thousands
@pytest.mark.parametrize(("case", "dtype"), [*product(CASES, (None, torch.float32)), (singletons, None)])
def test_every_fit_is_close_to_the_least_possible_objective(case: Any, dtype: torch.dtype | None):
    images = case()
    classes = int(images.targets.max()) + 2  # of the last there are no images
    exact = path(Logistic(*images, classes, torch.float64), STRENGTHS, 0)
    for w, fit in path(Logistic(*images, classes, dtype), STRENGTHS, 1e-6).items():
        value, slope = objective(exact[w].weights, images, w)
        least = value - slope / (4 * w)  # the objective is 2w-strongly convex: nothing is lower
        assert value - least < 1e-6 * value, "the reference is no reference"
        assert fit.gap <= 1e-6 * fit.objective
        assert fit.objective == pytest.approx(objective(fit.weights, images, w)[0], rel=1e-6)
        assert least * (1 - 1e-9) <= objective(fit.weights, images, w)[0] <= least * (1 + 1e-5)


@pytest.mark.parametrize("w", [1e-3, 1e-2, 1.0, 30.0])
def test_a_fit_is_scikit_learns(w: float):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = blobs(200, classes=3, spread=1.5)
    # without an intercept: the column of ones stands for the bias, which is punished like a weight
    peer = linear_model.LogisticRegression(C=1 / (2 * w), fit_intercept=False, tol=1e-10, max_iter=10_000)
    expected = torch.from_numpy(peer.fit(with_ones(features).numpy(), labels.numpy()).coef_)
    found = Logistic(features, labels, 3).fit(w, torch.zeros(3, 6, dtype=torch.float64), 1e-12)
    torch.testing.assert_close(found.weights, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [separable, overlapping])
@pytest.mark.parametrize("w", [STRENGTHS[0], STRENGTHS[22], STRENGTHS[-1]])
def test_a_start_far_away_leads_to_the_same_optimum(w: float, case: Any):
    images, far = case(), 30 * randn(4, case().features.shape[1] + 1, seed=5).double()
    near = path(Logistic(*images, 4), STRENGTHS, 1e-9)[w]
    found = Logistic(*images, 4).fit(w, far, 1e-9)
    assert objective(found.weights, images, w)[0] == pytest.approx(objective(near.weights, images, w)[0], rel=1e-7)


def test_neither_the_axes_nor_the_preconditioner_change_the_optimum(monkeypatch: pytest.MonkeyPatch):
    images = overlapping()
    monkeypatch.setattr(logistic, "_ROWS", 100)
    monkeypatch.setattr(preconditioner, "_LEADING", 3)
    monkeypatch.setattr(preconditioner, "_ENOUGH", 200)
    monkeypatch.setattr(logistic, "_CHUNK", 64)
    monkeypatch.setattr(logistic, "_PART", 64)
    other = path(Logistic(*images, 4), STRENGTHS, 1e-8)
    monkeypatch.undo()
    for w, fit in path(Logistic(*images, 4), STRENGTHS, 1e-8).items():
        assert other[w].objective == pytest.approx(fit.objective, rel=1e-6)


def test_the_first_images_alone():
    images = overlapping()
    part = path(Logistic(*images, 4).first(200), [1.0], 1e-9)[1.0]
    alone = path(Logistic(images.features[:200], images.targets[:200], 4), [1.0], 1e-9)[1.0]
    torch.testing.assert_close(part.weights, alone.weights, rtol=1e-3, atol=1e-4)


def test_probabilities_keep_their_digits_where_an_image_is_all_but_certain():
    images = separable()
    problem = Logistic(*images, 3, torch.float32)
    point = problem._at(50 * path(problem, [1e-3], 1e-6)[1e-3].weights.float() @ problem._axes.float())
    logits = point.logits.double()
    exact = F.cross_entropy(logits.T, images.targets, reduction="none")
    assert exact.max() < 1e-8  # in float32 the label's p is 1, and log p is 0
    assert point.loss == pytest.approx(float(exact.sum()), rel=1e-3)
    missed = -point.residual.gather(0, images.targets[None])[0]
    torch.testing.assert_close(missed.double(), -torch.expm1(-exact), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_and_derivatives_are_those_of_softmax(dtype: torch.dtype):
    logits, labels = 5 * randn(7, 300, seed=2).to(dtype), torch.arange(300)[None] % 7
    logits[:, :70] *= 200  # hits and misses so certain that probabilities are zero in the type
    given, exact = logits.clone(), logits.double().softmax(0)
    outs = [torch.empty(7, 900, dtype=dtype)[:, 300:600] for _ in range(3)]  # parts of larger tensors
    loss = logistic._derivatives(logits, labels, outs)
    residual, p, variance = (out.double() for out in outs)
    assert torch.equal(logits, given)
    single = dtype == torch.float32
    # differences of logits of 3,000 have an error of 2e-4 in float32
    torch.testing.assert_close(p, exact, rtol=2e-4 if single else 1e-12, atol=2e-26 if single else 1e-200)
    near = {"rtol": 1e-5, "atol": 3e-7} if single else {"rtol": 1e-11, "atol": 1e-15}
    torch.testing.assert_close(residual, exact - F.one_hot(labels[0], 7).T, **near)
    torch.testing.assert_close(variance, exact * (1 - exact), **near)
    assert loss == pytest.approx(float(F.cross_entropy(given.double().T, labels[0], reduction="sum")), rel=1e-6)


def test_the_only_class_is_certain():
    outs = [torch.empty(1, 5) for _ in range(3)]
    assert logistic._derivatives(randn(1, 5), torch.zeros(1, 5, dtype=torch.int64), outs) == 0
    residual, p, variance = outs
    assert torch.equal(p, torch.ones(1, 5)) and not residual.any() and not variance.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_probability_is_a_denormal_number(dtype: torch.dtype):
    images = separable()
    problem = Logistic(*images, 3, dtype)
    weights = path(problem, [1e-3], 1e-6)[1e-3].weights.to(dtype) @ problem._axes.to(dtype)
    scale = -math.log(torch.finfo(dtype).tiny) / float(problem._at(weights).logits.abs().max())
    for factor in (0.5, 0.9, 1, 1.1, 1.5, -0.5, -0.9, -1, -1.1, -1.5):  # of hits, and of misses
        point = problem._at(factor * scale * weights)
        for tensor in (point.p, point.variance, point.residual):
            assert not ((tensor != 0) & (tensor.abs() < torch.finfo(dtype).tiny)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_probability_of_a_certain_miss_is_no_denormal_number(dtype: torch.dtype):
    logits = torch.tensor([[-math.log(torch.finfo(dtype).tiny) + 5], [0.0]], dtype=dtype)
    outs = [torch.empty_like(logits) for _ in range(3)]
    assert logistic._derivatives(logits, torch.tensor([[1]]), outs) == pytest.approx(float(logits[0]))
    residual, p, variance = outs
    assert float(p[1]) == 0 and not variance.any() and residual.tolist() == [[1], [-1]]


def test_a_sample_of_images_has_the_second_moment_of_all(monkeypatch: pytest.MonkeyPatch):
    images, variance = randn(3000, 4).double(), 10 * randn(3000, seed=1).double()
    variance = variance.exp() / (1 + variance.exp()) ** 2  # most of it belongs to some of the images
    monkeypatch.setattr(preconditioner, "_ENOUGH", 3000)
    exact = preconditioner._second_moment(images, variance)
    torch.testing.assert_close(exact, (images.T * variance) @ images / variance.sum())
    monkeypatch.setattr(preconditioner, "_ENOUGH", 1000)
    sampled = preconditioner._second_moment(images, variance)
    assert float((sampled - exact).norm()) < 0.1 * float(exact.norm())


def test_the_curvature_is_that_of_autograd():
    features, labels = (part[:12] for part in overlapping())
    problem = Logistic(features, labels, 4, torch.float64)
    weights, ahead = randn(4, 7, seed=1).double(), randn(4, 7, seed=2).double()

    def value(at: Tensor) -> Tensor:
        loss = F.cross_entropy(with_ones(features) @ problem._axes @ at.T, labels, reduction="sum")
        return loss + 0.3 * at.square().sum()

    _, expected = torch.autograd.functional.hvp(value, weights, ahead)
    point = problem._at(weights)
    found, logits = problem._curved(0.3, point, ahead)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits, problem._at(ahead).logits)
    gradient = point.residual @ problem._images + 2 * 0.3 * weights
    torch.testing.assert_close(gradient, torch.autograd.functional.jacobian(value, weights))


def test_a_fit_that_takes_too_long_ends_with_a_larger_gap(monkeypatch: pytest.MonkeyPatch):
    features, labels = overlapping()
    monkeypatch.setattr(logistic, "_ITERATIONS", 1)
    monkeypatch.setattr(logistic, "_INNER", 2)
    problem = Logistic(features, labels, 4)
    stopped = path(problem, [1e-3], 1e-9)[1e-3]
    assert problem._iterations <= 2
    monkeypatch.undo()
    best = path(Logistic(features, labels, 4), [1e-3], 1e-9)[1e-3]
    assert stopped.objective - best.objective > 1e-6 * best.objective
    assert stopped.gap > 0.1 * (stopped.objective - best.objective)  # it is an estimate


@pytest.mark.parametrize(("patience", "share"), [(10**9, 0.5), (0, 1.0)])
def test_a_fit_ends_at_half_of_what_is_sufficient_and_at_all_of_it_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, patience: int, share: float
):
    monkeypatch.setattr(logistic, "_PATIENCE", patience)
    images, rough, asked, found = overlapping(), 1e-2, list[Fit](), list[Fit]()

    def sufficient(unfinished: Fit) -> float:
        asked.append(unfinished)
        assert len(found) == STRENGTHS[::-1].index(unfinished.strength)  # after the fits before it were yielded
        return rough

    problem, before = Logistic(*images, 4), 0
    for fit in problem.path(STRENGTHS, 1e-9, sufficient):
        found.append(fit)
        assert fit.gap <= share * rough * fit.objective
        assert problem._iterations > before or fit.gap <= 1e-9 * fit.objective  # a start's gap is only guessed
        before = problem._iterations
    assert len(found) == len(STRENGTHS) and asked
    assert max(fit.gap / fit.objective for fit in found) > 1e-5
    finest = Logistic(*images, 4)
    assert len(path(finest, STRENGTHS, 1e-9)) == len(STRENGTHS) and finest._iterations > problem._iterations


@pytest.mark.parametrize("patience", [10**9, 0])
def test_all_of_what_is_sufficient_is_accepted_after_many_iterations_alone(
    monkeypatch: pytest.MonkeyPatch, patience: int
):
    monkeypatch.setattr(logistic, "_PATIENCE", patience)
    # a sufficient gap of 1.5 times the fit's own: the fit's is below it, but above half of it
    fits = list(Logistic(*overlapping(), 4).path(STRENGTHS, 1e-9, lambda fit: 1.5 * fit.gap / fit.objective))
    assert any(fit.gap > 1e-8 * fit.objective for fit in fits) == (patience == 0)
