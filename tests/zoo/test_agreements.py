"""The agreements of two embeddings beside nt_xent: against explicit loops, closed forms, and whole batches."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from star_zoo import losses, objectives
from star_zoo.losses import AGREEMENTS, agreement, barlow_twins, negative_cosine, vicreg
from twins import POLICY, build, generator, randn

N, O = 7, 4  # noqa: E741


def slow_cosine(a: list[list[float]], b: list[list[float]]) -> float:
    def cosine(x: list[float], y: list[float]) -> float:
        return sum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)

    return -sum(cosine(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def columns(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def slow_barlow_twins(a: list[list[float]], b: list[list[float]]) -> float:
    def standardised(column: list[float]) -> list[float]:
        mean = sum(column) / N
        deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / N)
        return [(x - mean) / deviation for x in column]

    first, second = ([standardised(column) for column in columns(rows)] for rows in (a, b))
    total = 0.0
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            c = sum(p * q for p, q in zip(x, y, strict=True)) / N
            total += (1 - c) ** 2 if i == j else 5e-3 * c**2
    return total


def slow_vicreg(a: list[list[float]], b: list[list[float]]) -> float:
    invariance = sum((x - y) ** 2 for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)) / N / O
    variance = covariance = 0.0
    for rows in (a, b):
        centred = [[x - sum(column) / N for x in column] for column in columns(rows)]
        for i, x in enumerate(centred):
            variance += max(0.0, 1 - math.sqrt(sum(v * v for v in x) / (N - 1) + 1e-4)) / O / 2
            for j, y in enumerate(centred):
                covariance += 0.0 if i == j else (sum(p * q for p, q in zip(x, y, strict=True)) / (N - 1)) ** 2 / O
    return 25 * invariance + 25 * variance + covariance


SLOW = {"negative_cosine": slow_cosine, "barlow_twins": slow_barlow_twins, "vicreg": slow_vicreg}


@pytest.mark.parametrize("name", SLOW)
def test_values_and_gradients_are_those_of_explicit_loops(name: str):
    a, b = 0.5 * randn(N, O).double() + 0.2, 0.4 * randn(N, O, seed=1).double()
    a.requires_grad_()
    loss = AGREEMENTS[name](a, b)
    loss.backward()
    assert loss.item() == pytest.approx(SLOW[name](a.tolist(), b.tolist()), rel=1e-5)
    for i, j in ((0, 0), (3, 2)):
        step = torch.zeros_like(a)
        step[i, j] = 1e-5
        ahead, behind = (SLOW[name]((a.detach() + sign * step).tolist(), b.tolist()) for sign in (1, -1))
        assert a.grad[i, j].item() == pytest.approx((ahead - behind) / 2e-5, rel=1e-3, abs=1e-6)


def test_closed_forms():
    x = randn(50, O)
    assert negative_cosine(x, 3 * x).item() == pytest.approx(-1)
    assert negative_cosine(x, -x).item() == pytest.approx(1)
    basis = torch.eye(O).repeat(2, 1) - torch.eye(O).repeat(2, 1).mean(0)  # correlations of -1/3 between dimensions
    expected = 5e-3 * O * (O - 1) / 9
    assert barlow_twins(basis, 2 * basis + 1).item() == pytest.approx(expected, rel=1e-4)
    same = torch.zeros(6, O)
    assert vicreg(same, same).item() == pytest.approx(25 * (1 - 0.01))  # collapsed: the deviation is that of epsilon


def test_every_agreement_is_known_by_name_and_no_other():
    a, b = randn(N, O), randn(N, O, seed=1)
    assert agreement("nt_xent", 0.5)(a, b) == losses.nt_xent(a, b, 0.5)
    for name in SLOW:
        assert agreement(name, 0.5)(a, b) == AGREEMENTS[name](a, b)
    with pytest.raises(ValueError, match="agreement 'cosine' not found; .*known: nt_xent, negative_cosine"):
        agreement("cosine", 0.5)


def drawn(objective: objectives.Objective, images: int = 6) -> tuple[list[Tensor], list[Tensor]]:
    g = generator(0)
    params = list(torch.stack([objective.plan(20, 30, g) for _ in range(images)]).unbind(1))
    return [randn(images, 8, seed=v) for v in range(len(params))], params


@pytest.mark.parametrize("agree", AGREEMENTS)
@pytest.mark.parametrize("name", ["star", "star_ss", "equimod"])
def test_a_routed_objective_maximises_any_agreement(name: str, agree: str):
    objective = build(name, agree=agree, embed_dim=12, equivariant_weight=0.5)
    features, params = drawn(objective)
    terms = objective.terms(features, params)
    z_inv, z_eq = objective.heads(torch.cat(features), 3)
    (_, inv1, inv2), (eq0, eq1, eq2) = z_inv.chunk(3), z_eq.chunk(3)
    assert inv1.shape == (6, 12)
    loss = agreement(agree, 0.2)
    assert_close(terms["invariant"], loss(inv1, inv2))
    predicted = torch.cat([objective.predict(eq0, p) for p in params[1:]])
    assert_close(terms["equivariant"], 0.5 * loss(torch.cat((eq1, eq2)), predicted))
    objectives.total(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_an_agreement_is_a_setting_that_is_saved():
    objective = build("star", agree="vicreg")
    assert objective.config["settings"]["agree"] == "vicreg"
    assert objectives.build("star", 8, POLICY, **objective.config["settings"]).agree is AGREEMENTS["vicreg"]
