"""The gradient regularizer against finite differences and closed forms. Letters: B images, D features, P params."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import Encoder, Policy
from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip
from star_zoo.objectives._gradient import GradientRegularizer, _signs
from star_zoo.objectives.simclr_gr import SimCLRGR
from twins import MEAN, STD, build, draws, randn

B, D = 4, 3
JITTER = Policy((Crop(16), ColorJitter(), Blur()), MEAN, STD)  # params 4 to 8 are differentiable


def regularizer(clamp: float = 1e9, weight: float = 1.0, warmup: float = 0.0, fields=None) -> GradientRegularizer:
    return GradientRegularizer(JITTER, weight, clamp, warmup, fields)


def quadratic(params: Tensor) -> Tensor:
    """Features that are quadratic in the params: (B, P) -> (B, D)."""
    a, q = randn(9, D, seed=1).to(params), randn(D, 9, 9, seed=2).to(params)
    return params @ a + 0.1 * torch.einsum("bp,dpq,bq->bd", params, q, params) + 2


def differences(params: Tensor, others: Tensor, columns: list[int], signs: Tensor) -> Tensor:
    """The mean of <g, a' - a>^2, with g by central differences in double precision."""
    step, total = 1e-6, 0.0
    for b in range(B):
        g = torch.zeros(9, dtype=torch.float64)
        for k in columns:
            ends = []
            for sign in (1, -1):
                moved = params[b : b + 1].clone()
                moved[0, k] += sign * step
                ends.append((signs[b] * F.normalize(quadratic(moved), dim=1)[0]).sum())
            g[k] = (ends[0] - ends[1]) / (2 * step)
        total += sum(float(g @ (other - params[b])) ** 2 for other in others)
    return torch.tensor(total / (B * len(others)))


@pytest.mark.parametrize("fields", [None, ["hue", "blur_sigma"]])
def test_the_term_equals_finite_differences_on_a_quadratic_toy(fields):
    params, others = draws(JITTER, B, seed=1).requires_grad_(), draws(JITTER, 6, seed=2)
    found = regularizer(fields=fields)(quadratic(params), params, others)
    signs = _signs(params, D)
    columns = [JITTER.fields.index(field) for field in fields] if fields else [4, 5, 6, 7, 8]
    expected = differences(params.detach().double(), others.double(), columns, signs.double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert expected > 1e-4


def test_the_gradient_with_respect_to_weights_equals_finite_differences():
    params, others = draws(JITTER, B, seed=1).double().requires_grad_(), draws(JITTER, 6, seed=2).double()
    weight = randn(9, D, seed=4).double().requires_grad_()
    term = regularizer().double()

    def loss(w: Tensor) -> Tensor:
        torch.manual_seed(3)
        return term((params @ w).tanh() + 0.5, params, others)

    loss(weight).backward()
    for k in ((4, 0), (6, 2), (8, 1)):
        step = torch.zeros_like(weight)
        step[k] = 1e-2  # the term is computed in float32
        slope = (loss((weight + step).detach()) - loss((weight - step).detach())) / 2e-2
        assert weight.grad[k].item() == pytest.approx(slope.item(), rel=0.02, abs=1e-4)


def test_a_constant_encoder_has_none_and_scaled_features_the_same():
    params, others = draws(JITTER, B).requires_grad_(), draws(JITTER, 6, seed=2)
    constant = torch.ones(B, D, requires_grad=True)
    assert regularizer()(constant + 0 * params.sum(), params, others) == 0
    assert regularizer()(constant * 2, params, others) == 0  # unrelated to the params
    found = []
    for scale in (1, 7):
        torch.manual_seed(0)
        found.append(regularizer()(scale * quadratic(params), params, others))
    assert_close(found[0], found[1])


def test_signs_are_balanced_and_independent_over_images_and_columns():
    signs = _signs(draws(JITTER, 2000), 32).double()
    assert torch.equal(signs.abs(), torch.ones(2000, 32, dtype=torch.float64))
    assert signs.mean(0).abs().max() < 0.1  # 4.5 standard errors
    assert (signs.T @ signs / 2000 - torch.eye(32)).abs().max() < 0.12
    again = _signs(draws(JITTER, 2000)[1000:], 32)  # a process with half of the images
    assert torch.equal(again.double(), signs[1000:])


def test_a_clamped_term_has_no_gradient():
    params, others = draws(JITTER, B).requires_grad_(), draws(JITTER, 6, seed=2)
    weight = torch.ones((), requires_grad=True)
    for clamp, moves in ((1e-6, False), (1e9, True)):
        weight.grad = None
        term = regularizer(clamp, weight=0.5)(quadratic(params * weight), params, others)
        term.backward()
        assert bool(weight.grad) == moves
        assert moves or term.item() == pytest.approx(0.5e-6)


def test_the_weight_grows_over_the_warm_up_and_is_part_of_the_state():
    objective = build("simclr_gr", warmup=0.5)
    strengths = [objective.regularizer.strength.item()]
    for progress in (0.1, 0.25, 0.5, 1.0):
        objective.after_step(None, progress)
        strengths.append(objective.regularizer.strength.item())
    assert strengths == pytest.approx([0, 0.2, 0.5, 1, 1])
    assert "regularizer.strength" in objective.state_dict()
    assert build("simclr_gr", warmup=0.0).regularizer.strength == 1


def test_the_objective_regularizes_the_first_views_features_on_real_augmentations():
    objective = build("simclr_gr", warmup=0.0, regularizer_weight=2.0, clamp=1e9)
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, 6)
    torch.manual_seed(5)
    terms = objective(batch, encoder)
    plain = build("simclr", temperature=0.5)
    plain.load_state_dict(objective.state_dict(), strict=False)
    assert_close(terms["invariant"], plain(batch, encoder)["invariant"])
    params = batch.params[0].clone().requires_grad_()
    features = encoder([encoder.augment(batch._replace(params=[params, batch.params[1]]), view) for view in (0, 1)])
    torch.manual_seed(5)
    assert_close(terms["gradient"], objective.regularizer(features[0], params, batch.params[1]))
    assert terms["gradient"] > 0 and not batch.params[0].requires_grad
    with torch.no_grad():
        torch.manual_seed(5)
        assert_close(objective(batch, encoder)["gradient"], terms["gradient"])


def test_it_trains_a_vit_whose_fused_attention_can_be_differentiated_once_only():
    policy = Policy((Crop(32), ColorJitter()), MEAN, STD)
    backbone = twins.backbone("test_vit", img_size=32)
    objective = SimCLRGR(backbone.num_features, policy, warmup=0.0, clamp=1e9)
    objective(twins.batch(objective, 4), Encoder(policy, backbone))["gradient"].backward()
    assert all(p.grad is not None and p.grad.any() for name, p in backbone.named_parameters() if "qkv.weight" in name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regularizer_weight": -1.0}, "regularizer_weight is -1.0; it must not be negative"),
        ({"clamp": -1.0}, "clamp is -1.0; it must not be negative"),
        ({"warmup": 1.5}, "warmup is 1.5; it must be a fraction of the steps"),
        ({"regularized": ["top"]}, "differentiable field 'top' not found; .*known: brightness"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build("simclr_gr", **settings)


def test_a_policy_without_differentiable_augmentations_is_refused():
    with pytest.raises(ValueError, match="the policy has Crop, Flip; the regularizer needs ColorJitter, Blur or Spiro"):
        GradientRegularizer(Policy((Crop(16), Flip()), MEAN, STD), 1.0, 1.0, 0.0, None)
