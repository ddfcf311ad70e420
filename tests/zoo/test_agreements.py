"""The losses beside nt_xent against explicit loops and closed forms; the agreements made of them."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import losses, objectives
from star_zoo.losses import barlow_twins, negative_cosine, vicreg
from star_zoo.objectives._agreements import AGREEMENTS, Mutual, PredictedCosine, agreement
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
        deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / N + 1e-5)  # as batch norm
        return [(x - mean) / deviation for x in column]

    first, second = ([standardised(column) for column in columns(rows)] for rows in (a, b))
    total = 0.0
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            c = sum(p * q for p, q in zip(x, y, strict=True)) / N
            total += (1 - c) ** 2 if i == j else 5e-3 * c**2
    return total / O


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


FAST = {"negative_cosine": negative_cosine, "barlow_twins": barlow_twins, "vicreg": vicreg}
SLOW = {"negative_cosine": slow_cosine, "barlow_twins": slow_barlow_twins, "vicreg": slow_vicreg}


@pytest.mark.parametrize("name", SLOW)
def test_values_and_gradients_are_those_of_explicit_loops(name: str):
    a, b = 0.5 * randn(N, O).double() + 0.2, 0.4 * randn(N, O, seed=1).double()
    a.requires_grad_()
    loss = FAST[name](a, b)
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
    expected = 5e-3 * (O - 1) / 9
    assert barlow_twins(basis, 2 * basis + 1).item() == pytest.approx(expected, rel=1e-4)
    same = torch.zeros(6, O)
    assert vicreg(same, same).item() == pytest.approx(25 * (1 - 0.01))  # collapsed: the deviation is that of epsilon


def test_every_agreement_is_known_by_name_and_no_other():
    a, b = randn(N, O), randn(N, O, seed=1)
    for name, loss in {**FAST, "nt_xent": lambda x, y: losses.nt_xent(x, y, 0.5)}.items():
        if name != "negative_cosine":
            assert agreement(name, O, 0.5).between(a, b, a, b) == loss(a, b)
            assert agreement(name, O, 0.5).toward(b, a) == loss(a, b)
    with pytest.raises(ValueError, match="agreement 'cosine' not found; .*known: nt_xent, negative_cosine, byol, moco"):
        agreement("cosine", O, 0.5)


ONE_SIDED = ("negative_cosine", "byol", "moco", "moco_v3")


@pytest.mark.parametrize("name", AGREEMENTS)
def test_a_mutual_agreement_moves_both_sides_and_a_one_sided_the_first(name: str):
    torch.manual_seed(0)
    agree, (x, target) = agreement(name, 8, 0.5), (randn(N, 8, seed=s).requires_grad_() for s in (0, 1))
    agree.toward(x, target).backward()
    assert x.grad.any()
    assert (target.grad is None) == (name in ONE_SIDED)
    assert isinstance(agree, Mutual) != (name in ONE_SIDED)


@pytest.mark.parametrize("name", ONE_SIDED)
def test_between_is_the_mean_of_both_directions(name: str):
    torch.manual_seed(0)
    agree, (a, b, ta, tb) = agreement(name, 8, 0.5).eval(), (randn(N, 8, seed=s) for s in range(4))
    assert_close(agree.between(a, b, ta, tb), (agree.toward(a, tb) + agree.toward(b, ta)) / 2)


def drawn(objective: objectives.Objective, images: int = 6) -> tuple[list[Tensor], list[Tensor]]:
    g = generator(0)
    params = list(torch.stack([objective.plan(20, 30, g) for _ in range(images)]).unbind(1))
    return [randn(images, 8, seed=v) for v in range(len(params))], params


@pytest.mark.parametrize("agree", AGREEMENTS)
@pytest.mark.parametrize("name", ["star", "equimod"])
def test_a_routed_objective_maximises_any_agreement(name: str, agree: str):
    objective = build(name, agree=agree, embed_dim=12, equivariant_weight=0.5, hidden=7)
    objective.attach(twins.encoder(POLICY))
    features, params = drawn(objective)
    targets = None if objective.agree.momentum is None else [randn(6, 8, seed=v) for v in (5, 6)]
    terms = objective.terms(features, params, targets)
    objectives.total(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)

    same = build(name, agree=agree, embed_dim=12, equivariant_weight=0.5, hidden=7)  # its queues are as they were
    z_inv, z_eq = same.heads(torch.cat(features), 3)
    (_, inv1, inv2), (eq0, eq1, eq2) = z_inv.chunk(3), z_eq.chunk(3)
    aims = (torch.cat((inv1, inv2)), torch.cat((eq1, eq2))) if targets is None else same.heads(torch.cat(targets), 2)
    predicted = torch.cat([same.predict(eq0, p) for p in params[1:]])
    assert_close(terms["invariant"], same.agree.between(inv1, inv2, *aims[0].chunk(2)))
    assert_close(terms["equivariant"], 0.5 * same.agree_equivariant.toward(predicted, aims[1]))


@pytest.mark.parametrize("agree", ONE_SIDED)
def test_the_view_is_the_aim_of_its_prediction_and_never_follows_it(agree: str):
    objective = build("equimod", agree=agree, embed_dim=12)
    features, params = drawn(objective)
    for f in features:
        f.requires_grad_()
    objective.terms(features, params)["equivariant"].backward()
    moved = [bool(f.grad.any()) for f in features]
    assert moved == [True, False, False]  # the base view alone
    for f in features:
        f.grad = None
    objective.terms(features, params)["invariant"].backward()
    assert [bool(f.grad.any()) for f in features] == [False, True, True]


def test_an_agreement_is_a_setting_that_is_saved():
    objective = build("star", agree="byol")
    assert objective.config["settings"]["agree"] == "byol"
    again = objectives.build("star", 8, POLICY, **objective.config["settings"])
    assert isinstance(again.agree, PredictedCosine) and again.agree.momentum == 0.996


def test_modules_of_nt_xent_are_named_as_in_earlier_files():
    names = {name.rpartition(".")[0].partition(".")[0] for name in build("star").state_dict()}
    assert names == {"heads", "shift_predictor"}


# --- collapse


def spread(z: Tensor) -> float:
    """The deviation of unit embeddings over images, 1 for random directions and 0 if all are one point."""
    return float(torch.nn.functional.normalize(z.detach(), dim=1).std(0).mean() * z.shape[1] ** 0.5)


@pytest.mark.parametrize("safe", [True, False])
def test_negative_cosine_does_not_collapse_where_the_bare_loss_does(safe: bool):
    objective = build("equimod", agree="negative_cosine", embed_dim=16, hidden=16)
    if not safe:
        objective.agree = objective.agree_equivariant = Mutual(negative_cosine)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.2, momentum=0.9)
    g = generator(0)
    params = list(torch.stack([objective.plan(20, 30, g) for _ in range(64)]).unbind(1))
    for step in range(30):
        images = randn(64, 8, seed=step)
        features = [images + 0.3 * randn(64, 8, seed=1000 + 3 * step + view) for view in range(3)]
        optimizer.zero_grad()
        objectives.total(objective.terms(features, params)).backward()
        optimizer.step()
    for z in objective.embed(randn(64, 8, seed=5000)).values():
        assert spread(z) > 0.7 if safe else spread(z) < 0.2  # 0.8 and 0.1; 0.7 to 0.8 before training


# --- two processes, each with half of the batch

WORLD, WIDTH = 2, 8


def losses_of(own: slice) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of each agreement: the loss, its gradient with respect to a layer, and what its queue holds afterwards."""
    found = {}
    for name in AGREEMENTS:
        torch.manual_seed(0)
        agree, layer = agreement(name, WIDTH, 0.5), torch.nn.Linear(WIDTH, WIDTH)
        agree.train(name == "moco")  # batch norm would have the statistics of half a batch
        a, b, ta, tb = (randn(WORLD * N, WIDTH, seed=s)[own] for s in range(4))
        loss = agree.between(layer(a), layer(b), ta, tb) + agree.toward(layer(b), tb)
        loss.backward()
        queue = agree.queue.rows.sort(0).values if name == "moco" else torch.zeros(())
        found[name] = loss.detach(), layer.weight.grad, queue
    return found


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    torch.save(losses_of(slice(rank * N, rank * N + N)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path):
    torch.multiprocessing.start_processes(process, (str(tmp_path),), nprocs=WORLD, start_method="forkserver")
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    for name, (loss, gradient, queue) in losses_of(slice(None)).items():
        assert_close(torch.stack([half[name][0] for half in halves]).mean(), loss, msg=name)
        assert_close(torch.stack([half[name][1] for half in halves]).mean(0), gradient, rtol=1e-4, atol=1e-6)
        for half in halves:
            assert_close(half[name][2], queue)


def test_a_collapsed_dimension_has_the_gradient_that_batch_norm_gives_it():
    a, b = (randn(64, 32, seed=k) for k in range(2))
    a[:, 0] = 0.3
    found, twin = (a.clone().requires_grad_() for _ in range(2))
    barlow_twins(found, b).backward()
    x, y = (torch.nn.functional.batch_norm(side, None, None, training=True) for side in (twin, b))
    c = x.T @ y / len(x)
    on, off = (1 - c.diagonal()).square().sum(), c.square().sum() - c.diagonal().square().sum()
    ((on + 5e-3 * off) / 32).backward()
    torch.testing.assert_close(found.grad, twin.grad)
    assert found.grad.norm() < 10
