"""STL against its formula, row by row, and an oracle. Letters: B images, D features, R size of a transformation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import twins
from star_zoo import Objective
from star_zoo.losses import nt_xent
from star_zoo.objectives.stl import Moved, partners
from twins import NUM_FEATURES, build, randn

B, D = 6, NUM_FEATURES


def views() -> list[Tensor]:
    return [randn(B, D, seed=v).requires_grad_() for v in (0, 1)]


def slow(objective: Objective, y1: Tensor, y2: Tensor) -> dict[str, Tensor]:
    """The three terms; each image's prediction by the D x D matrix that its partner's transformation makes."""
    t12, t21 = objective.transformation(torch.cat((y1, y2), 1)), objective.transformation(torch.cat((y2, y1), 1))
    rows: dict[str, list[Tensor]] = {"1": [], "2": []}
    for b in range(B):
        partner = b + 1 if b % 2 == 0 else b - 1
        for name, y, t in (("1", y2, t21), ("2", y1, t12)):
            matrix = (objective.moved.hypernetwork.weight @ t[partner]).view(D, D)
            rows[name].append(matrix @ y[b])
    project = objective.equivariant
    z = torch.cat((project(y1), project(y2)))
    predicted = torch.cat((project(torch.stack(rows["1"])), project(torch.stack(rows["2"]))))
    even = torch.cat([t[b : b + 1] for t in (t12, t21) for b in range(0, B, 2)])
    odd = torch.cat([t[b : b + 1] for t in (t12, t21) for b in range(1, B, 2)])
    shape = objective.project_transformation
    return {
        "invariant": nt_xent(objective.invariant(y1), objective.invariant(y2), 0.3),
        "equivariant": 0.7 * nt_xent(z, predicted, 0.3),
        "transformation": 0.2 * nt_xent(shape(even), shape(odd), 0.3),
    }


def test_terms_and_gradients_equal_the_formula_row_by_row():
    settings = {"temperature": 0.3, "equivariant_weight": 0.7, "transformation_weight": 0.2, "transformation_dim": 5}
    objective, fast, loops = build("stl", **settings), views(), views()
    terms, expected = objective.terms(fast, []), slow(objective, *loops)
    assert_close(terms, expected)
    sum(terms.values()).backward()
    grads = {name: p.grad.clone() for name, p in objective.named_parameters()}
    objective.zero_grad()
    sum(expected.values()).backward()
    assert_close([x.grad for x in fast], [x.grad for x in loops])
    assert_close(grads, {name: p.grad for name, p in objective.named_parameters()})


def test_the_hypernetworks_map_is_linear_in_features_and_transformation():
    moved, y, t = Moved(D, 5), randn(B, D), randn(B, 5)
    assert_close(moved(2 * y, t), 2 * moved(y, t))
    assert_close(moved(y, 3 * t), 3 * moved(y, t))
    assert_close(moved(y, t + 1), moved(y, t) + moved(y, torch.ones(B, 5)))


def test_partners_are_swapped():
    assert partners(torch.arange(6)[:, None]).flatten().tolist() == [1, 0, 3, 2, 5, 4]


def test_partners_share_both_transformations_in_a_batch():
    objective = build("stl")
    assert objective.share == 2
    batch = twins.batch(objective, 4)
    for params in batch.params:
        assert torch.equal(params[0], params[1]) and torch.equal(params[2], params[3])
        assert not torch.equal(params[0], params[2])


class Shift(nn.Module):
    """An oracle: the shift between the two views, which their last D/2 numbers encode, as a one-hot of D/2."""

    def forward(self, pair: Tensor) -> Tensor:
        first, second = (y[:, D // 2 :].argmax(1) for y in pair.chunk(2, 1))
        return F.one_hot((second - first) % (D // 2), D // 2).float()


def test_an_oracle_predicts_with_true_partners_better_than_with_others():
    """Transformations roll half of the features, and the other half encodes how far."""
    objective = build("stl", transformation_dim=D // 2)
    objective.transformation, objective.equivariant = Shift(), nn.Identity()
    objective.project_transformation, objective.invariant = nn.Identity(), nn.Identity()
    with torch.no_grad():
        eye = torch.eye(D // 2)
        matrices = [torch.block_diag(eye.roll(k, 0), eye.roll(k, 0)) for k in range(D // 2)]
        objective.moved.hypernetwork.weight.copy_(torch.stack(matrices, 2).flatten(0, 1))
    shifts, count = torch.arange(4).repeat_interleave(2), 8
    content = randn(count, D // 2)

    def view(by: Tensor) -> Tensor:
        rolled = torch.stack([row.roll(int(k)) for row, k in zip(content, by, strict=True)])
        return torch.cat((rolled, F.one_hot(by, D // 2)), 1)

    y1, y2 = view(torch.zeros_like(shifts)), view(shifts)
    true = objective.terms([y1, y2], [])["equivariant"]
    order = torch.tensor([0, 2, 1, 4, 3, 6, 5, 7])  # no two neighbours share a shift
    shuffled = objective.terms([y1[order], y2[order]], [])["equivariant"]
    assert_close(objective.moved(y1, F.one_hot(shifts, D // 2).float()), y2)
    assert true < shuffled - 0.1
