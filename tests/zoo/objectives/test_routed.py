"""STAR and its relatives, and SimCLR, against explicit loops over images and experts.

Letters: B images, V views, D features, H hidden width, O embedding size, P augmentation parameters.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import Objective, objectives, released
from star_zoo.heads import FixedRouter
from star_zoo.losses import nt_xent
from twins import NUM_FEATURES, POLICY, SeparateExperts, build, contrast, generator, randn

B, D, H, O = 6, NUM_FEATURES, 7, 128  # noqa: E741
ROUTED = ["star", "star_ss", "equimod"]


def views(objective: Objective, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Random features and planned params of each view: V times (B, D) and V times (B, P)."""
    g = generator(seed)
    plans = torch.stack([objective.plan(20, 30, g) for _ in range(B)])
    params = list(plans.unbind(1))
    return [randn(B, D, seed=seed + v).requires_grad_() for v in range(len(params))], params


def embeddings(weights: Tensor, outputs: Tensor) -> list[Tensor]:
    """z_inv and z_eq, (B, O) each: for every image the sum of its experts' outputs, weighted."""
    return [
        torch.stack([sum(weights[b, task, e] * outputs[b, e] for e in range(outputs.shape[1])) for b in range(B)])
        for task in (0, 1)
    ]


def routing(objective: Objective, features: Tensor) -> Tensor:
    """Each method's weights over the experts as the paper states them: (B, 2, E)."""
    name = objective.config["objective"]
    if name == "star":
        linear = objective.heads.router.linear
        logits = features @ linear.weight.T + linear.bias
        return torch.stack([half.softmax(1) for half in logits.chunk(2, 1)], 1)
    table = {"star_ss": [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], "equimod": [[1.0, 0.0], [0.0, 1.0]]}[name]
    return torch.tensor(table).expand(B, -1, -1)


def slow_equivariant(eq: list[Tensor], predicted: list[Tensor], temperature: float, **change: bool) -> float:
    """Paper.md 1.2: 4B anchors; the positive of a view's embedding is its prediction, and the other way round.

    All else but itself is a negative, the other view of the same image too; the changes are ways to get it wrong.
    """
    labels = [(kind, view, image) for kind in ("eq", "hat") for view in (0, 1) for image in range(B)]
    rows = [(eq if kind == "eq" else predicted)[view][image].tolist() for kind, view, image in labels]

    def positive(kind: str, view: int, image: int) -> int:
        if change.get("other_view_is_positive"):
            return labels.index((kind, 1 - view, image))
        return labels.index(("hat" if kind == "eq" else "eq", view, image))

    def candidate(anchor: int, other: int) -> bool:
        (_, view, image), (_, other_view, other_image) = labels[anchor], labels[other]
        return not (change.get("other_view_is_left_out") and image == other_image and view != other_view)

    return contrast(rows, [positive(*label) for label in labels], temperature, candidate)


def slow(objective: Objective, separate: SeparateExperts) -> tuple[list[list[Tensor]], list[Tensor]]:
    """(z_inv, z_eq) of the base view and the two others, and the predictions of the two others' z_eq."""
    features, params = views(objective)
    z = [embeddings(routing(objective, f), separate(f)) for f in features]
    return z, [objective.shift_predictor(z[0][1], p) for p in params[1:]]


def with_separate_experts(name: str, **settings) -> tuple[Objective, SeparateExperts]:
    objective = build(name, hidden=H, **settings)
    separate = SeparateExperts(D, objective.heads.experts.num_experts, O, H)
    objective.heads.experts.load_state_dict(separate.stacked() | separate.statistics())
    return objective, separate


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ROUTED)
def test_terms_equal_the_papers_in_explicit_loops(name: str, training: bool):
    objective, separate = with_separate_experts(name)
    objective.train(training), separate.train(training)  # while training, batch norm sees each view on its own
    terms = objective.terms(*views(objective))
    (_, (inv1, eq1), (inv2, eq2)), predicted = slow(objective, separate)
    assert terms.keys() == {"invariant", "equivariant"}
    assert terms["invariant"].item() == pytest.approx(twins.nt_xent(inv1, inv2, 0.2), rel=1e-4)
    assert terms["equivariant"].item() == pytest.approx(slow_equivariant([eq1, eq2], predicted, 0.2), rel=1e-4)


def test_the_other_view_of_the_same_image_is_a_negative():
    objective, separate = with_separate_experts("star")
    ours = objective.terms(*views(objective))["equivariant"].item()
    (_, (_, eq1), (_, eq2)), predicted = slow(objective, separate)
    without = slow_equivariant([eq1, eq2], predicted, 0.2, other_view_is_left_out=True)
    invariant = slow_equivariant([eq1, eq2], predicted, 0.2, other_view_is_positive=True)
    assert ours == pytest.approx(slow_equivariant([eq1, eq2], predicted, 0.2), rel=1e-4)
    assert ours - without > 0.01  # a negative can only add
    assert abs(ours - invariant) > 0.01


@pytest.mark.parametrize("name", ROUTED)
def test_the_temperature_reaches_both_terms(name: str):
    objective, separate = with_separate_experts(name, temperature=0.7)
    terms = objective.terms(*views(objective))
    (_, (inv1, eq1), (inv2, eq2)), predicted = slow(objective, separate)
    assert terms["invariant"].item() == pytest.approx(twins.nt_xent(inv1, inv2, 0.7), rel=1e-4)
    assert terms["equivariant"].item() == pytest.approx(slow_equivariant([eq1, eq2], predicted, 0.7), rel=1e-4)


@pytest.mark.parametrize("name", ROUTED)
def test_the_equivariant_weight_scales_its_term_alone(name: str):
    plain, weighted = build(name), build(name, equivariant_weight=0.25)
    terms, scaled = (objective.terms(*views(objective)) for objective in (plain, weighted))
    assert scaled["invariant"] == terms["invariant"]
    assert_close(scaled["equivariant"], 0.25 * terms["equivariant"])


@pytest.mark.parametrize("name", ROUTED)
def test_the_plan_is_the_base_view_and_two_draws(name: str):
    plan, g = build(name).plan(20, 30, generator(3)), generator(3)
    assert torch.equal(plan, torch.stack([POLICY.base(20, 30), POLICY.draw(20, 30, g), POLICY.draw(20, 30, g)]))


@pytest.mark.parametrize("name", ROUTED)
def test_no_gradient_is_stopped(name: str):
    objective = build(name)
    features, params = views(objective)
    objective.terms(features, params)["equivariant"].backward()
    assert all(f.grad is not None and f.grad.any() for f in features)  # the base view's among them


@pytest.mark.parametrize("name", ROUTED)
def test_only_the_equivariant_term_sees_the_params(name: str):
    objective = build(name)
    features, params = views(objective)
    before = objective.terms(features, params)
    base_changed = objective.terms(features, [params[0].roll(1, 0), *params[1:]])
    view_changed = objective.terms(features, [*params[:2], params[2].roll(1, 0)])
    assert base_changed == before
    assert view_changed["invariant"] == before["invariant"]
    assert view_changed["equivariant"] != before["equivariant"]


def test_equimod_is_star_with_an_expert_for_each_task():
    star, equimod = build("star", num_experts=2), build("equimod", seed=1)
    star.heads.router = FixedRouter([[1.0, 0.0], [0.0, 1.0]])
    star.load_state_dict(equimod.state_dict())
    assert star.terms(*views(star)) == equimod.terms(*views(equimod))


def test_means_of_several_heads_share_none():
    heads, features = build("equimod", heads_inv=3, heads_eq=2).heads.eval(), randn(B, D)
    outputs = heads.experts(features)
    z_inv, z_eq = heads(features)
    assert_close(z_inv, outputs[:, :3].mean(1))
    assert_close(z_eq, outputs[:, 3:].mean(1))
    with pytest.raises(ValueError, match="heads_inv is 0 and heads_eq 1; each must be at least 1"):
        build("equimod", heads_inv=0)


def test_star_ss_adds_the_shared_expert_to_each_tasks_own():
    heads, features = build("star_ss").heads.eval(), randn(B, D)
    own_inv, own_eq, shared = heads.experts(features).unbind(1)
    z_inv, z_eq = heads(features)  # the loss can't tell half of a sum from the sum
    assert_close(z_inv, own_inv + shared)
    assert_close(z_eq, own_eq + shared)


def test_star_has_the_sizes_that_the_paper_gives():
    policy = released.policy("stl10")
    with torch.device("meta"):
        star = objectives.build("star", 512, policy)
    size = {name: sum(p.numel() for p in module.parameters()) for name, module in star.heads.named_children()}
    assert size == {"experts": 16 * 592_000, "router": 2 * 16 * 513}  # 9.47 M and 16.4 k, paper.md 1.6
    standardize = star.shift_predictor.standardize
    assert all(map(torch.equal, (standardize.mean, standardize.std), policy.field_statistics))


@pytest.mark.parametrize("training", [True, False])
def test_simclr_is_nt_xent_of_its_head_on_each_view(training: bool):
    objective = build("simclr", hidden=H, temperature=0.3).train(training)
    (f1, f2), params = views(objective)
    terms = objective.terms([f1, f2], params)
    assert terms.keys() == {"invariant"}
    assert_close(terms["invariant"], nt_xent(objective.heads(f1), objective.heads(f2), 0.3))
    assert objective.heads[0].weight.shape == (H, D)


def test_simclr_plans_two_draws():
    plan, g = build("simclr").plan(20, 30, generator(3)), generator(3)
    assert torch.equal(plan, torch.stack([POLICY.draw(20, 30, g), POLICY.draw(20, 30, g)]))


def test_uniform_gives_both_tasks_the_mean_of_all_experts():
    torch.manual_seed(0)
    objective = build("uniform", num_experts=3)
    features = randn(6, D)
    z_inv, z_eq = objective.heads(features)
    assert_close(z_inv, objective.heads.experts(features).mean(1))
    assert torch.equal(z_inv, z_eq)
