"""CIPER: SimCLR plus a regression whose loss is one minus R2. Letters: B images, D features, P parameters."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from star_zoo import objectives
from twins import NUM_FEATURES, POLICY, build, generator, randn

B, P = 12, len(POLICY.fields)


def views(objective) -> tuple[list[Tensor], list[Tensor]]:
    plans = torch.stack([objective.plan(20, 30, generator(k)) for k in range(B)])
    return [randn(B, NUM_FEATURES, seed=v).requires_grad_() for v in range(2)], list(plans.unbind(1))


def slow(objective, features: list[Tensor], params: list[Tensor]) -> Tensor:
    """The regression in loops, from the formula: each difference standardised by the batch."""
    linear, norm, _, last = objective.predictor
    hidden = torch.cat(features, 1) @ linear.weight.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
    predicted = hidden.clamp(min=0) @ last.weight.T + last.bias
    losses = []
    for field in range(P):
        difference = params[1][:, field] - params[0][:, field]
        spread = (difference.var(correction=0) + 1e-5).sqrt()
        losses += [(predicted[i, field] - (difference[i] - difference.mean()) / spread) ** 2 for i in range(B)]
    return sum(losses) / len(losses)


def test_the_regression_equals_loops_in_value_and_gradient():
    objective = build("ciper", predictor_hidden=6)
    features, params = views(objective)
    found = objective.terms(features, params)["equivariant"]
    expected = slow(objective, features, params)
    assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(x, [*features, *objective.predictor.parameters()]) for x in (found, expected))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_other_term_is_simclrs():
    ciper, simclr = build("ciper", temperature=0.3, hidden=5), build("simclr", temperature=0.3, hidden=5)
    simclr.heads.load_state_dict(ciper.heads.state_dict())
    features, params = views(ciper)
    found = ciper.terms(features, params)
    assert found["invariant"] == simclr.terms(features, params)["invariant"]
    assert torch.equal(ciper.plan(20, 30, generator(3)), simclr.plan(20, 30, generator(3)))


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_the_term_is_one_minus_r2(known: float):
    class Knows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return known * nn.functional.batch_norm(params[1] - params[0], None, None, training=True)

    objective = build("ciper")
    features, params = views(objective)
    objective.predictor = Knows()
    truth = params[1] - params[0]
    predicted = known * (truth - truth.mean(0))
    varies = truth.var(0) > 1e-3  # the eps of batch norm is small beside the others'
    r2 = (
        1
        - (truth - truth.mean(0) - predicted).square().sum(0)[varies] / (truth - truth.mean(0)).square().sum(0)[varies]
    )
    share = varies.float().mean()
    assert_close(objective.terms(features, params)["equivariant"], share * (1 - r2.mean()), rtol=0.02, atol=1e-3)


def test_swapped_views_have_the_opposite_target():
    objective = build("ciper")
    _, params = views(objective)
    objective.train()
    assert_close(objective.standardize(params[1] - params[0]), -objective.standardize(params[0] - params[1]))


def test_the_weight_scales_the_regression_alone():
    one, tenth = build("ciper"), build("ciper", prediction_weight=0.1)
    features, params = views(one)
    a, b = one.terms(features, params), tenth.terms(features, params)
    assert a["invariant"] == b["invariant"]
    assert_close(b["equivariant"], 0.1 * a["equivariant"])


def test_the_settings_of_simclr_are_its_own_too():
    assert objectives.settings("ciper") == {
        "predictor_hidden": 1024, "prediction_weight": 1.0, "temperature": 0.2, "hidden": None,
        "embed_dim": 128,
    }  # fmt: skip
