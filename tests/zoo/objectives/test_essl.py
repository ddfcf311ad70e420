"""E-SSL: one-way cross entropy between two views, and rotations of a third, small one.

Letters: B images, N pairs, O embedding size, D features.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import Policy, objectives
from star_zoo.augmentations import Crop, Flip, QuarterTurn
from star_zoo.losses import info_nce, nt_xent
from twins import MEAN, NUM_FEATURES, STD, build, generator, randn

B = 6
POLICY = Policy((Crop(16), Flip()), MEAN, STD)


def small():
    objective = objectives.build("essl", NUM_FEATURES, POLICY, hidden=12, embed_dim=5)
    return objective, twins.encoder(objective.policy), twins.batch(objective, B)


# The one-way loss


def one_way(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    losses = []
    for i in range(len(a)):
        scores = [(a[i] @ b[j]) / a[i].norm() / b[j].norm() / temperature for j in range(len(b))]
        losses.append(torch.stack(scores).logsumexp(0) - scores[i])
    return sum(losses) / len(losses)


def test_info_nce_equals_a_double_loop_in_value_and_gradient():
    a, b = randn(5, 4).requires_grad_(), randn(5, 4, seed=1).requires_grad_()
    found, expected = info_nce(a, b, 0.3), one_way(a, b, 0.3)
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), rtol=1e-4, atol=1e-6)


def test_info_nce_has_fewer_negatives_than_nt_xent():
    a = torch.eye(5)
    assert info_nce(a, 3 * a, 0.2).item() == pytest.approx(math.log(math.exp(5) + 4) - 5)
    assert nt_xent(a, 3 * a, 0.2).item() == pytest.approx(math.log(math.exp(5) + 8) - 5)
    same = torch.ones(5, 3)
    assert info_nce(same, same, 0.2).item() == pytest.approx(math.log(5))


def test_info_nce_refuses_what_nt_xent_refuses():
    with pytest.raises(ValueError, match=r"shapes \(5, 3\) and \(4, 3\); a pair needs equal shapes"):
        info_nce(randn(5, 3), randn(4, 3), 0.2)
    with pytest.raises(ValueError, match="temperature is 0; it must be positive"):
        info_nce(randn(5, 3), randn(5, 3), 0)


# The objective


def test_the_policy_gets_quarter_turns_once():
    policy = small()[0].policy
    assert policy.augmentations == (Crop(16), Flip(), QuarterTurn())
    kind = objectives.find("essl")
    assert kind.adapt(policy) == policy


def test_three_draws_are_planned_of_which_none_is_rotated_and_the_last_is_small():
    objective = small()[0]
    plan, g = objective.plan(20, 30, generator(2)), generator(2)
    draws = torch.stack([objective.policy.draw(20, 30, g) for _ in range(3)])
    turns = objective.policy.fields.index("quarter_turns")
    assert (draws[:, turns] != 0).any() and not plan[:, turns].any()
    draws[:, turns] = 0
    assert torch.equal(plan, draws)
    assert objective.sizes == (16, 16, 8)
    assert build("essl", small_size=10).sizes == (16, 16, 10)


def test_terms_equal_the_papers_in_loops():
    objective, encoder, batch = small()
    terms = objective(batch, encoder)
    views = [encoder.augment(batch, k) for k in range(3)]  # the crop and the flip come before the turn
    turned = torch.cat([views[2].rot90(k, (2, 3)) for k in range(4)])
    f1, f2, f3 = (encoder([x])[0] for x in (*views[:2], turned))
    z1, z2 = objective.heads(f1), objective.heads(f2)
    assert_close(terms["invariant"], (one_way(z1, z2, 0.5) + one_way(z2, z1, 0.5)) / 2)
    logits = objective.rotation(f3).log_softmax(1)
    expected = -sum(logits[k * B + i, k] for k in range(4) for i in range(B)) / (4 * B)
    assert_close(terms["rotation"], 0.4 * expected)


def test_the_projection_ends_in_a_batch_norm_without_weights():
    objective = small()[0]
    assert_close(objective.heads(randn(B, NUM_FEATURES)).mean(0), torch.zeros(5), rtol=0, atol=1e-6)
    assert objective.heads[1].weight is None
    assert [type(m).__name__ for m in objective.rotation] == ["Linear", "LayerNorm", "ReLU"] * 2 + ["Linear"]


def test_the_weights_reach_their_terms():
    objective, encoder, batch = small()
    other = objectives.build("essl", NUM_FEATURES, POLICY, hidden=12, embed_dim=5, rotation_weight=0.1, temperature=0.2)
    other.load_state_dict(objective.state_dict())
    a, b = objective(batch, encoder), other(batch, encoder)
    assert_close(b["rotation"], a["rotation"] / 4)
    assert b["invariant"] > a["invariant"] + 0.01 or b["invariant"] < a["invariant"] - 0.01
