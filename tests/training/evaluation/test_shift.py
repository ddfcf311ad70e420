"""Predicting views, finding them again and telling their params, on worlds whose answers are known.

Letters: N images, V views, D features, P augmentation parameters, K inputs, M outputs.
"""

import math

import pytest
import torch
from torch import Tensor

from star_training.evaluation.embeddings import Viewed
from star_training.evaluation.protocols.equivariance import displacement as shift
from star_training.evaluation.protocols.equivariance import retrieval
from star_training.evaluation.protocols.equivariance.params_r2 import fit_and_score, r2
from star_training.evaluation.solvers import ridge
from twins import build, draws, randn

# Ridge


def slow_ridge(x: Tensor, y: Tensor) -> Tensor:
    """One output with the strength of the least generalised cross-validation, tried one by one."""
    best, kept = math.inf, x.new_zeros(x.shape[1])
    for strength in ridge.STRENGTHS:
        inverse = torch.linalg.inv(x.T @ x + len(x) * strength * torch.eye(x.shape[1], dtype=x.dtype))
        hat = x @ inverse @ x.T
        score = float((y - hat @ y).square().sum() / (len(x) - float(hat.trace())) ** 2)
        if score < best:
            best, kept = score, inverse @ x.T @ y
    return kept


@pytest.mark.parametrize(("n", "k"), [(80, 5), (40, 30), (30, 60)])
def test_ridge_is_the_plain_formula_with_the_best_strength_for_each_output(n: int, k: int):
    x, noise = randn(n, k).double(), randn(n, 3, seed=2).double()
    y = x @ randn(k, 3, seed=1).double() + noise * torch.tensor([1.0, 10.0, 300.0])
    found = ridge.solve(x, y)
    for m in range(3):
        torch.testing.assert_close(found[:, m], slow_ridge(x, y[:, m]), rtol=1e-5, atol=1e-7)


def test_a_fit_is_scikit_learns_at_its_strength():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = randn(60, 5) * 7 + 3, randn(60, 2, seed=1)
    fitted = ridge.fit(x, y)
    standard = ((x - x.mean(0)) / x.std(0)).double().numpy()
    candidates = []
    for strength in ridge.STRENGTHS:
        peer = linear_model.Ridge(alpha=60 * strength).fit(standard, y.double().numpy())
        candidates.append(torch.from_numpy(peer.predict(standard)))
    predicted = fitted(x)
    for m in range(2):
        assert min(float((predicted[:, m] - c[:, m]).abs().max()) for c in candidates) < 1e-5


def test_a_linear_world_is_found_and_noise_is_not():
    x = torch.cat((randn(300, 4), torch.full((300, 1), 5.0)), 1)  # the last input never varies
    y = x[:, :2] @ randn(2, 2, seed=1) - 7
    torch.testing.assert_close(ridge.fit(x, y)(x), y.double(), rtol=1e-4, atol=1e-4)
    noise = randn(300, 1, seed=3)
    assert float(ridge.fit(x, noise)(x).std()) < 0.2


# Finding views


def slow_ranks(predicted: Tensor, views: Tensor, k: int) -> tuple[float, float]:
    """MRR and H@k: the mean over all orders of what ties."""
    reciprocal, hits = [], []
    for wanted, candidates in zip(predicted.double(), views.double(), strict=True):
        for j, query in enumerate(wanted):
            cosines = [float(query @ c / query.norm() / c.norm()) for c in candidates]
            better = sum(c > cosines[j] + 1e-6 for c in cosines)
            places = [better + 1 + t for t in range(sum(abs(c - cosines[j]) <= 1e-6 for c in cosines))]
            reciprocal.append(sum(1 / p for p in places) / len(places))
            hits.append(sum(p <= k for p in places) / len(places))
    return sum(reciprocal) / len(reciprocal), sum(hits) / len(hits)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_ranks_are_those_of_a_plain_loop(k: int):
    views = randn(6, 7, 4)
    views[:, 3] = views[:, 0]  # views that coincide
    views[2] = views[2, 0]
    predicted = views + 0.5 * randn(6, 7, 4, seed=1)
    found = retrieval.ranks(predicted, views)
    mrr, hits = slow_ranks(predicted, views, k)
    assert float(found.reciprocal().mean()) == pytest.approx(mrr)
    assert float(found.hits(k).mean()) == pytest.approx(hits)


def test_ranks_by_hand():
    views = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]])
    predicted = torch.tensor([[[2.0, 0.1], [1.0, 0.0], [-1.0, 0.0]]])  # first, second, first of all
    found = retrieval.ranks(predicted, views)
    assert found.better.tolist() == [[0, 1, 0]] and found.level.tolist() == [[1, 1, 1]]
    assert found.reciprocal().tolist() == [[1.0, 0.5, 1.0]]
    assert found.hits(1).tolist() == [[1.0, 0.0, 1.0]] and found.hits(2).tolist() == [[1.0] * 3]


def test_an_oracle_finds_every_view():
    views = randn(5, 50, 8)
    found = retrieval.ranks(3 * views, views)
    assert float(found.reciprocal().mean()) == 1 and float(found.hits(1).mean()) == 1


@pytest.mark.parametrize("views", [randn(4, 50, 8), torch.ones(4, 50, 8), torch.zeros(4, 50, 8)])
def test_an_invariant_prediction_finds_views_by_chance(views: Tensor):
    """The base view as the prediction of all, also where all views are the same: exactly chance."""
    found = retrieval.ranks(views[:, :1].expand_as(views), views)
    chance = retrieval.chance(50)
    assert float(found.reciprocal().mean()) == pytest.approx(chance["MRR"])
    assert [float(found.hits(k).mean()) for k in (1, 5)] == pytest.approx([chance["H@1"], chance["H@5"]])


def test_chance_of_fifty_is_as_published():
    assert retrieval.chance(50) == pytest.approx({"MRR": 0.0900, "H@1": 0.02, "H@5": 0.1}, abs=5e-5)
    assert retrieval.chance(3)["H@5"] == 1


def test_parameter_errors_are_those_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr(retrieval, "_CHUNK", 7)
    predicted, views, params = randn(40, 4), randn(40, 4, seed=1), randn(40, 3, seed=2)
    found = retrieval.parameter_errors(predicted, views, params)
    for j, query in enumerate(predicted.double()):
        cosines = [float(query @ c / c.norm()) for c in views.double()]
        torch.testing.assert_close(found[j], (params[j] - params[cosines.index(max(cosines))]).square())
    assert not retrieval.parameter_errors(views, views, params).any()
    params = randn(2000, 4, seed=3)
    chance = retrieval.parameter_errors(randn(2000, 4), randn(2000, 4, seed=1), params).mean()
    assert float(chance) == pytest.approx(2, abs=0.3)


# Predicting


def linear_world(images: int, views: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (N, V, D) that params (N, V, P) move by a shift and by a linear map of the base view, the first."""
    base, params = randn(images, 6, seed=seed), randn(images, views, 2, seed=seed + 1)
    start = torch.tensor([1.0, -2.0])
    params[:, 0] = start
    q = params - start
    moved = torch.einsum("nvp,pde,nd->nve", q, randn(2, 6, 6, seed=7) / 3, base)
    return base[:, None] + moved + q @ randn(2, 6, seed=8), params


def test_the_fitted_predictor_learns_a_linear_world():
    features, params = linear_world(500, 2, 0)
    fitted = shift.fit(features[:, 0], features[:, 1], params[:, 0], params[:, 1])
    features, params = linear_world(30, 20, 100)
    actual, predicted = shift.predict_all(fitted, Viewed(params, features))
    assert float(retrieval.ranks(predicted, actual).reciprocal().mean()) > 0.99
    way = shift.way(predicted.flatten(0, 1), actual[:, :1].expand_as(actual).flatten(0, 1), actual.flatten(0, 1))
    assert way.relative().value > 0.999
    torch.testing.assert_close(  # and at the base view's params it is the base view
        fitted.predict(features[:, 0], params[:, 0], params[:, 0]), fitted.embed(features[:, 0]).double()
    )


def test_the_fitted_predictor_learns_what_goes_both_ways_alike():
    """A shift by the square of a parameter's difference from the base."""
    base, params, start = randn(500, 6), randn(500, 2, seed=1), torch.zeros(500, 2)
    views = base + params[:, :1].square() * randn(6, seed=2)
    fitted = shift.fit(base, views, start, params)
    way = shift.way(fitted.predict(base, start, params), fitted.embed(base), fitted.embed(views))
    assert way.relative().value > 0.99


def test_params_that_say_nothing_predict_no_shift():
    base, params = randn(500, 6), randn(500, 3, seed=1)
    fitted = shift.fit(base, base + randn(500, 6, seed=2), torch.zeros(500, 3), params)
    shifted = fitted.predict(base, torch.zeros(500, 3), params) - fitted.embed(base)
    assert float(shifted.std()) < 0.2


def test_params_and_features_that_never_vary_do_no_harm():
    base = torch.cat((randn(200, 3), torch.ones(200, 2)), 1)
    params = torch.cat((randn(200, 1, seed=1), torch.ones(200, 1)), 1)
    fitted = shift.fit(base, base + params[:, :1], torch.zeros(200, 2), params)
    predicted = fitted.predict(base, torch.zeros(200, 2), params)
    torch.testing.assert_close(predicted.float(), fitted.embed(base + params[:, :1]), rtol=1e-2, atol=1e-2)


def test_the_own_predictor_is_the_objectives_in_eval_mode():
    objective = build("star")
    features, params = randn(10, 8), draws(objective.policy, 10)
    objective.train()
    own = shift.own(objective, features, params)
    predicted, embedded = own.predict(features, params, params), own.embed(features)
    assert objective.training and all(m.training for m in objective.modules())
    objective.eval()
    with torch.no_grad():
        z_eq = objective.heads(features)[1]
        torch.testing.assert_close(embedded, z_eq)
        torch.testing.assert_close(predicted, objective.shift_predictor(z_eq, params))


def test_recalibrated_heads_see_each_kind_of_view_as_in_training():
    objective = build("star")
    base, views = randn(900, 8), 3 * randn(900, 8, seed=1) + 1
    params = draws(objective.policy, 900)
    saved = shift.own(objective, base, params)
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    found = shift.recalibrated(saved, base, views, params)
    predicted, embedded = found.predict(base, params, params), found.embed(views)
    assert all(torch.equal(v, state[k]) for k, v in objective.state_dict().items())
    objective.train()
    with torch.no_grad():
        of_base, of_views = (objective.heads(x)[1] for x in (base, views))
        expected = objective.shift_predictor(of_base, params)
    torch.testing.assert_close(embedded, of_views, rtol=5e-3, atol=5e-3)  # the variance of N by N - 1
    torch.testing.assert_close(predicted, expected, rtol=5e-3, atol=5e-3)
    assert float((saved.embed(views) - of_views).abs().max()) > 0.1


def test_views_are_predicted_in_parts_as_at_once(monkeypatch):
    features, params = linear_world(23, 4, 0)
    fitted = shift.fit(features[:, 0], features[:, 1], params[:, 0], params[:, 1])
    whole = shift.predict_all(fitted, Viewed(params, features))
    monkeypatch.setattr(shift, "_IMAGES", 5)
    for part, expected in zip(shift.predict_all(fitted, Viewed(params, features)), whole, strict=True):
        torch.testing.assert_close(part, expected)


# The way


def test_perfect_predictions_go_all_the_way_and_invariant_ones_none():
    base, views = randn(50, 6), randn(50, 6, seed=1)
    perfect, none = shift.way(5 * views, base, views), shift.way(base, base, views)
    assert perfect.relative().value == pytest.approx(1) and float((perfect.gained - perfect.whole).abs().max()) < 1e-6
    assert none.relative() == (0, 0, 0) and not none.gained.any()


def test_a_way_by_hand():
    base, view = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    halfway = shift.way(torch.tensor([[3.0, 4.0]]), base, view)  # cosine 0.8 instead of 0
    assert halfway.gained.tolist() == pytest.approx([0.8]) and halfway.whole.tolist() == pytest.approx([1.0])
    both = shift.way(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), base.repeat(2, 1), view.repeat(2, 1))
    assert both.relative().value == pytest.approx(0.4)


def test_views_that_are_the_base_view_are_no_division_by_zero():
    x = randn(5, 3)
    assert shift.way(-x, x, x).relative().value == pytest.approx(-2e6)
    assert shift.way(x, x, x).relative().value == 0


def test_the_interval_of_the_relative_measure_holds_the_truth():
    held = 0
    for seed in range(300):
        whole = 0.2 + 0.5 * torch.rand(100, generator=torch.Generator().manual_seed(seed)).double()
        gained = 0.4 * whole + 0.1 * randn(100, seed=1000 + seed).double()
        found = shift.Way(gained, whole).relative()
        held += found.low <= 0.4 <= found.high
    assert 273 <= held <= 297


# Params


def test_r2_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    truth, predicted = randn(50, 4) * 3 + 2, randn(50, 4, seed=1)
    each, _ = r2(truth, predicted, torch.ones(1, 50))
    expected = metrics.r2_score(truth.double().numpy(), predicted.double().numpy(), multioutput="raw_values")
    assert each[0].tolist() == pytest.approx(expected.tolist())


def test_r2_by_one_mean_is_sies():
    truth, predicted = randn(50, 4) * 3 + 2, randn(50, 4, seed=1)
    _, one_mean = r2(truth, predicted, torch.ones(1, 50))
    expected = 1 - float((truth - predicted).square().sum() / (truth - truth.mean()).square().sum())
    assert float(one_mean) == pytest.approx(expected, rel=1e-5)


def test_rows_count_as_often_as_said():
    truth, predicted = randn(6, 2), randn(6, 2, seed=1)
    counts = torch.tensor([[2, 0, 1, 3, 0, 1], [1, 1, 1, 1, 1, 1]])
    rows = torch.arange(6).repeat_interleave(counts[0])
    for found, expected in zip(
        r2(truth, predicted, counts), r2(truth[rows], predicted[rows], torch.ones(1, 7)), strict=True
    ):
        torch.testing.assert_close(found[:1], expected)


def test_known_params_are_predicted_and_unknown_ones_not():
    targets, truth = (randn(400, 3, seed=k) * torch.tensor([1.0, 10.0, 0.1]) + 5 for k in (0, 1))
    mixing = randn(3, 6, seed=2)
    score = fit_and_score(targets @ mixing, targets, truth @ mixing, truth, seed=0)
    assert score.mean.value > 0.999 and score.one_mean.value > 0.999
    assert score.mean == fit_and_score(targets @ mixing, targets, truth @ mixing, truth, seed=0).mean
    nothing = fit_and_score(randn(400, 6, seed=3), targets, randn(400, 6, seed=4), truth, seed=0)
    assert abs(nothing.mean.value) < 0.05 and nothing.mean.low < nothing.mean.value < nothing.mean.high
    some = torch.cat((targets[:, :1], randn(400, 1, seed=5)), 1), torch.cat((truth[:, :1], randn(400, 1, seed=6)), 1)
    each = fit_and_score(some[0], targets, some[1], truth, seed=0).each.tolist()
    assert each[0] > 0.99 and abs(each[1]) < 0.1
