"""The heads against slow twins: stock layers one after the other, and formulas written out."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from star_zoo.heads import Experts, FixedRouter, Router, ShiftPredictor, Standardize, StarHeads, mlp
from twins import Kernels, SeparateExperts, randn

B, D, H, O, P = 12, 10, 7, 5, 4  # noqa: E741


@pytest.fixture(autouse=True)
def same_weights_every_time():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def pair(num_experts: int) -> tuple[Experts, SeparateExperts]:
    """Stacked and separate experts with the same weights and running statistics."""
    separate = SeparateExperts(D, num_experts, O, H)
    experts = Experts(D, num_experts, O, H)
    experts.load_state_dict(separate.stacked() | separate.statistics())
    return experts, separate


def predictor(constant: bool = False) -> ShiftPredictor:
    std = torch.tensor([0.5, 2.0, 0.0 if constant else 3.0, 1.0])
    return ShiftPredictor(Standardize(torch.tensor([1.0, -2.0, 0.25, 0.0]), std), O)


# --- experts


@pytest.mark.parametrize("num_experts", [1, 2, 16])
@pytest.mark.parametrize("training", [True, False])
def test_experts_equal_separate_networks(num_experts: int, training: bool):
    experts, separate = (model.train(training) for model in pair(num_experts))
    out = experts(randn(B, D))
    assert out.shape == (B, num_experts, O)
    assert_close(out, separate(randn(B, D)))


@pytest.mark.parametrize("num_experts", [1, 2, 16])
def test_every_gradient_of_experts_equals_that_of_separate_networks(num_experts: int):
    experts, separate = pair(num_experts)
    inputs = [randn(B, D).requires_grad_() for _ in range(2)]
    for model, features in zip((experts, separate), inputs, strict=True):
        (model(features) * randn(B, num_experts, O, seed=1)).sum().backward()
    expected = separate.stacked(lambda parameter: parameter.grad)
    found = {name: parameter.grad for name, parameter in experts.named_parameters()}
    assert found.keys() == expected.keys()
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_experts", [1, 2, 16])
def test_a_training_step_moves_each_experts_running_statistics_as_its_own(num_experts: int):
    experts, separate = pair(num_experts)
    experts(randn(B, D)), separate(randn(B, D))
    for name, expected in separate.statistics().items():
        assert_close(experts.state_dict()[name], expected)


def test_an_expert_does_not_see_the_others():
    experts, _ = pair(3)
    before = experts(randn(B, D))
    with torch.no_grad():
        experts.weight2[1] += 1
    after = experts(randn(B, D))
    assert [torch.equal(before[:, e], after[:, e]) for e in range(3)] == [True, False, True]


def test_experts_start_as_torchs_linear_layers_do():
    experts = Experts(64, 8, embed_dim=32, hidden=16)
    fan_in = {"linear1.weight": 64, "weight2": 16, "weight3": 16, "bias3": 16}
    for name, tensor in experts.named_parameters():
        if name in fan_in:
            bound = 1 / math.sqrt(fan_in[name])
            assert tensor.abs().max() <= bound
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)  # not only bounded


def test_the_hidden_width_is_the_features_unless_given():
    assert Experts(D, 2).weight2.shape == (2, D, D)
    assert Experts(D, 2, hidden=3).weight2.shape == (2, 3, 3)


def test_experts_take_as_many_kernels_whatever_their_number():
    counted = []
    for num_experts in (2, 16):
        experts = Experts(D, num_experts, O, H)
        with Kernels() as kernels:
            experts(randn(B, D))
        counted.append(kernels.names)
    assert counted[0] == counted[1]
    assert len(counted[0]) > 0


def test_experts_keep_their_weights_when_batch_norm_is_synchronised():
    experts, _ = pair(2)
    before = {name: tensor.clone() for name, tensor in experts.state_dict().items()}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(experts)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == 2
    assert converted.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in converted.state_dict().items())


# --- routers


def test_each_tasks_weights_are_a_linear_layer_and_a_softmax_of_its_own():
    router = Router(D, 4, num_tasks=3)
    weights = router(randn(B, D))
    assert weights.shape == (B, 3, 4)
    assert_close(weights.sum(-1), torch.ones(B, 3))
    for task in range(3):
        rows = slice(4 * task, 4 * task + 4)
        logits = randn(B, D) @ router.linear.weight[rows].T + router.linear.bias[rows]
        assert_close(weights[:, task], logits.exp() / logits.exp().sum(1, keepdim=True))


def test_a_routers_gradient_reaches_the_features():
    features = randn(B, D).requires_grad_()
    Router(D, 4)(features)[:, 0, 0].sum().backward()
    assert features.grad is not None
    assert (features.grad != 0).all()


def test_a_saturated_router_gives_experts_no_denormal_gradient():
    """CPUs compute with denormal numbers many times as slowly; other weights are softmax's, exactly."""
    router, experts = Router(D, 4), Experts(D, 4, O, H)
    with torch.no_grad():
        router.linear.weight.mul_(120)
    features = 3 * randn(B, D)
    weights, plain = router(features), router.linear(features).view(B, 2, 4).softmax(-1)
    assert ((plain > 0) & (plain < 1e-30)).any() and ((plain > 1e-13) & (plain < 0.1)).any()
    kept = plain > 2.0**-46
    assert torch.equal(weights[kept], plain[kept]) and not weights[~kept].any()
    z = StarHeads(experts, router)(features)
    assert_close(torch.stack(z, 1), torch.einsum("bte,beo->bto", plain, experts(features)))
    sum(x.mul(1e-3 * randn(B, O)).sum() for x in z).backward()
    for parameter in (*experts.parameters(), *router.parameters()):
        tiny = torch.finfo(torch.float32).tiny
        assert not ((parameter.grad != 0) & (parameter.grad.abs() < tiny)).any()


def test_a_fixed_router_gives_every_image_its_table():
    table = [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    weights = FixedRouter(table)(randn(B, D))
    assert weights.tolist() == [table] * B


def test_a_fixed_router_is_saved_and_not_trained():
    router = FixedRouter([[1.0, 0.0], [0.0, 1.0]])
    assert list(router.state_dict()) == ["weights"]
    assert not list(router.parameters())


def test_a_fixed_router_needs_a_table():
    with pytest.raises(ValueError, match=r"needs \(tasks, experts\)"):
        FixedRouter([1.0, 0.0])  # type: ignore[list-item]


# --- the shift predictor


def test_standardize_gives_mean_zero_and_deviation_one():
    x = randn(1000, P) * torch.tensor([0.5, 2.0, 3.0, 1.0]) + 4
    out = Standardize(x.mean(0), x.std(0))(x)
    assert_close(out.mean(0), torch.zeros(P), atol=1e-5, rtol=0)
    assert_close(out.std(0), torch.ones(P))


def test_a_column_that_never_varies_is_only_centred():
    standardize = Standardize(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0]))
    assert standardize(torch.tensor([[3.0, 5.0], [1.0, 5.5]])).tolist() == [[1.0, 0.0], [0.0, 0.5]]


def test_standardize_keeps_its_own_copy_of_the_statistics_in_the_state():
    mean, std = torch.zeros(2), torch.ones(2)
    standardize = Standardize(mean, std)
    mean += 1
    std += 1
    assert {name: tensor.tolist() for name, tensor in standardize.state_dict().items()} == {
        "mean": [0.0, 0.0],
        "std": [1.0, 1.0],
    }


@pytest.mark.parametrize("constant", [True, False])
def test_the_shift_predictor_is_its_formula(constant: bool):
    model = predictor(constant)
    z, params = randn(B, O), randn(B, P, seed=1)
    w = dict(model.named_parameters())
    std = torch.tensor([0.5, 2.0, 1.0 if constant else 3.0, 1.0])
    psi = (params - torch.tensor([1.0, -2.0, 0.25, 0.0])) / std @ w["encode.weight"].T + w["encode.bias"]
    assert psi.shape == (B, 128)

    def norm_relu(x: Tensor, layer: int) -> Tensor:
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        return (x * w[f"shift.{layer}.weight"] + w[f"shift.{layer}.bias"]).clamp(min=0)

    x = norm_relu(torch.cat((z, psi), 1) @ w["shift.0.weight"].T, 1)
    x = norm_relu(x @ w["shift.3.weight"].T, 4)
    assert x.shape == (B, 512)
    expected = z + x @ w["shift.6.weight"].T + w["shift.6.bias"]
    assert_close(model(z, params), expected, rtol=1e-4, atol=1e-5)


def test_the_shift_predictor_has_the_papers_weights_and_no_others():
    model = ShiftPredictor(Standardize(torch.zeros(11), torch.ones(11)))
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == {
        "encode.weight": (128, 11),
        "encode.bias": (128,),
        "shift.0.weight": (512, 256),
        "shift.1.weight": (512,),
        "shift.1.bias": (512,),
        "shift.3.weight": (512, 512),
        "shift.4.weight": (512,),
        "shift.4.bias": (512,),
        "shift.6.weight": (128, 512),
        "shift.6.bias": (128,),
    }


def test_mlp_has_a_bias_only_where_no_batch_norm_follows():
    linears = [layer for layer in mlp(4, 5, 6, 7) if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features, layer.bias is not None) for layer in linears] == [
        (4, 5, False),
        (5, 6, False),
        (6, 7, True),
    ]
    assert isinstance(mlp(4, 7)[0], nn.Linear)
    assert len(mlp(4, 7)) == 1


# --- together


def test_star_heads_mix_the_experts_by_each_tasks_weights():
    heads = StarHeads(Experts(D, 6, O, H), Router(D, 6)).eval()
    outputs, weights = heads.experts(randn(B, D)), heads.router(randn(B, D))
    z_inv, z_eq = heads(randn(B, D))
    assert_close(z_inv, torch.einsum("be,beo->bo", weights[:, 0], outputs))
    assert_close(z_eq, torch.einsum("be,beo->bo", weights[:, 1], outputs))


def test_swapped_routers_swap_the_embeddings():
    """So no symmetric measurement of z_inv and z_eq, e.g. a canonical correlation, depends on which is which."""
    heads = StarHeads(Experts(5, 4, 3), Router(5, 4)).eval()
    x = torch.randn(7, 5)
    z_inv, z_eq = heads(x)
    for parameter in heads.router.parameters():
        parameter.data = parameter.detach().unflatten(0, (2, 4)).flip(0).flatten(0, 1)
    swapped = heads(x)
    assert torch.equal(swapped[0], z_eq) and torch.equal(swapped[1], z_inv)
    assert not torch.equal(z_inv, z_eq)


def test_experts_give_bfloat16_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert Experts(D, 2, O, H)(randn(B, D)).dtype == torch.bfloat16


@pytest.mark.parametrize("learned", [True, False])
def test_star_heads_run_in_bfloat16_under_autocast_and_stay_close(learned: bool):
    heads = StarHeads(Experts(D, 6, O, H), Router(D, 6) if learned else FixedRouter(torch.eye(2, 6).tolist()))
    exact = heads(randn(B, D))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = heads(randn(B, D))
    for got, expected in zip(rounded, exact, strict=True):
        assert got.dtype == torch.bfloat16
        assert F.cosine_similarity(got.float(), expected).min() > 0.99
        assert_close(got.float(), expected, rtol=0.1, atol=0.05)


def test_the_shift_predictor_runs_under_autocast_and_stays_close():
    model = predictor()
    z, params = randn(B, O), randn(B, P, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(z.bfloat16(), params)
    assert_close(rounded.float(), model(z, params), rtol=0.1, atol=0.05)


def test_gradients_under_autocast_stay_close():
    heads = StarHeads(Experts(D, 6, O, H), Router(D, 6))
    grads = []
    for enabled in (False, True):
        heads.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            z_inv, z_eq = heads(randn(B, D))
        (z_inv.float().square().sum() + z_eq.float().sum()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in heads.parameters()]))
    assert F.cosine_similarity(grads[0], grads[1], 0) > 0.99


@pytest.mark.parametrize("training", [False, True])
def test_several_views_in_one_call_are_a_call_for_each(training: bool):
    torch.manual_seed(0)
    one = StarHeads(Experts(6, 3, 5, 7), Router(6, 3)).double().train(training)
    three = copy.deepcopy(one)
    features = randn(12, 6).double() * torch.arange(1.0, 13)[:, None]
    found = one(features, 3)
    expected = [torch.cat(parts) for parts in zip(*(three(view) for view in features.chunk(3)), strict=True)]
    assert_close(list(found), expected)
    for parts in (found, expected):
        sum((k + 1) * part.sin().sum() for k, part in enumerate(parts)).backward()
    for (name, a), b in zip(one.named_parameters(), three.parameters(), strict=True):
        assert_close(a.grad, b.grad, msg=name)
    assert_close(one.state_dict(), three.state_dict())
