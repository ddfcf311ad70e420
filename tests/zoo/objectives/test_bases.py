"""SimSiam, BYOL, MoCo v2 and v3, Barlow Twins and VICReg, alone: against their formulas in double precision.

Letters: B images, D features, O embedding size, K rows of a queue.
"""

import copy
import math
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import twins
from star_zoo import Encoder, Objective, losses
from star_zoo.momentum import cosine_momentum
from twins import NUM_FEATURES, POLICY, build, generator, randn

B, D = 6, NUM_FEATURES
BASES = {
    "simsiam": {"embed_dim": 12, "predictor_hidden": 5},
    "byol": {"embed_dim": 12, "hidden": 10},
    "moco": {"embed_dim": 12, "hidden": 10, "queue_size": 9, "temperature": 0.3},
    "moco_v3": {"embed_dim": 12, "hidden": 10, "temperature": 0.3},
    "barlow_twins": {"embed_dim": 12, "hidden": 10, "weight": 0.01},
    "vicreg": {"embed_dim": 12, "hidden": 10, "invariance": 20.0, "variance": 15.0, "covariance": 2.0},
}


def run(layers: nn.Module, x: Tensor) -> Tensor:
    """What a stack of stock layers computes while it trains, by their formulas."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
            x = x * layer.weight + layer.bias if layer.affine else x
        else:
            x = x * (x > 0)
    return x


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


def contrast(x: Tensor, positive: Tensor, others: Callable[[int], Tensor], temperature: float) -> Tensor:
    """The cross entropy of each row of x with its own row of `positive` and the negatives of that row."""
    found = []
    for i in range(len(x)):
        scores = cosines(x[i : i + 1], torch.cat((positive[i : i + 1], others(i))))[0] / temperature
        found.append(scores.exp().sum().log() - scores[0])
    return torch.stack(found).mean()


def simsiam(o: Objective, z: list[Tensor], t: list[Tensor]) -> Tensor:
    one, two = (run(o.agree.predictor, x) for x in z)
    return -(cosines(one, t[1].detach()).diag().mean() + cosines(two, t[0].detach()).diag().mean()) / 2


def byol(o: Objective, z: list[Tensor], t: list[Tensor]) -> Tensor:
    unit = [[x / x.norm(dim=1, keepdim=True) for x in pair] for pair in ([run(o.agree.predictor, x) for x in z], t)]
    paper = sum((unit[0][k] - unit[1][1 - k].detach()).square().sum(1).mean() for k in (0, 1))
    return (paper - 4) / 4


def moco(o: Objective, z: list[Tensor], t: list[Tensor]) -> Tensor:
    queue = o.agree.queue.rows.clone()
    return sum(contrast(z[k], t[1 - k].detach(), lambda _: queue, 0.3) for k in (0, 1)) / 2


def moco_v3(o: Objective, z: list[Tensor], t: list[Tensor]) -> Tensor:
    def others(keys: Tensor) -> Callable[[int], Tensor]:
        return lambda i: keys[torch.arange(len(keys)) != i]

    queries = [run(o.agree.predictor, x) for x in z]
    paper = sum(2 * 0.3 * contrast(queries[k], t[1 - k].detach(), others(t[1 - k].detach()), 0.3) for k in (0, 1))
    return paper / 2


def barlow_twins(o: Objective, z: list[Tensor], t: list[Tensor]) -> Tensor:
    a, b = ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in z)
    terms = [((a[:, i] * b[:, j]).mean(), i == j) for i in range(12) for j in range(12)]
    return sum((1 - c) ** 2 if same else 0.01 * c**2 for c, same in terms) / 12


def vicreg(o: Objective, z: list[Tensor], t: list[Tensor]) -> Tensor:
    spread = sum((1 - (x.var(0) + 1e-4).sqrt()).clamp(min=0).mean() for x in z) / 2
    covariances = [torch.cov(x.T) for x in z]
    shared = sum((c - c.diag().diag()).square().sum() / 12 for c in covariances)
    return 20 * (z[0] - z[1]).square().mean() + 15 * spread + 2 * shared


FORMULAS = {f.__name__: f for f in (simsiam, byol, moco, moco_v3, barlow_twins, vicreg)}


@pytest.mark.parametrize("name", BASES)
def test_values_and_gradients_are_those_of_the_formula(name: str):
    objective = build(name, **BASES[name])
    encoder = twins.encoder(POLICY)
    objective.attach(encoder)
    with torch.no_grad():  # the targets are not the trained embeddings
        for k, p in enumerate(objective.heads.parameters()):
            p.add_(0.2 * randn(*p.shape, seed=k))
    twin = copy.deepcopy(objective).double()
    features = [randn(B, D, seed=s).requires_grad_() for s in (0, 1)]
    seen = None if objective.agree.momentum is None else [randn(B, D, seed=s) for s in (2, 3)]
    exact = [f.detach().double().requires_grad_() for f in features]

    z = [run(twin.heads, f) for f in exact]
    targets = z if seen is None else [run(twin.target_heads.module, f.double()) for f in seen]
    expected = FORMULAS[name](twin, z, targets)
    expected.backward()
    terms = objective.terms(features, [], seen)
    terms["invariant"].backward()
    assert terms.keys() == {"invariant"}
    assert_close(terms["invariant"].double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(features, exact, strict=True):
        assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-5)
    trained = {k: p for k, p in objective.named_parameters() if p.requires_grad}
    for k, p in twin.named_parameters():
        assert (k in trained) == p.requires_grad
        if k in trained:
            assert_close(trained[k].grad.double(), p.grad, rtol=1e-3, atol=2e-5, msg=k)


@pytest.mark.parametrize("name", BASES)
def test_sizes_follow_the_features_and_the_settings(name: str):
    width = {"simsiam": D, "byol": 256, "moco": 128, "moco_v3": 256, "barlow_twins": 4 * D, "vicreg": 4 * D}[name]
    assert build(name).embed(randn(4, D))["z_inv"].shape == (4, width)
    assert build(name, **BASES[name]).embed(randn(4, D))["z_inv"].shape == (4, 12)


@pytest.mark.parametrize("name", BASES)
def test_the_plan_is_two_draws(name: str):
    plan, g = build(name).plan(20, 30, generator(3)), generator(3)
    assert torch.equal(plan, torch.stack([POLICY.draw(20, 30, g), POLICY.draw(20, 30, g)]))


@pytest.mark.parametrize(
    ("name", "momentum"), [("byol", cosine_momentum(0.9, 0.25)), ("moco", 0.9), ("moco_v3", cosine_momentum(0.9, 0.25))]
)
def test_targets_follow_encoder_and_heads_by_the_momentum(name: str, momentum: float):
    objective, encoder = build(name, momentum=0.9), twins.encoder(POLICY)
    objective.attach(encoder)
    pairs = [(objective.heads, objective.target_heads.module), (encoder, objective.target_encoder.module)]
    before = [p.detach().clone() for _, target in pairs for p in target.parameters()]
    with torch.no_grad():
        for module, _ in pairs:
            for p in module.parameters():
                p.add_(1)
    objective.after_step(encoder, 0.25)
    after = [p for _, target in pairs for p in target.parameters()]
    for old, new in zip(before, after, strict=True):
        assert_close(new, old + 1 - momentum)


def test_targets_are_of_the_same_images_in_the_copys_eyes():
    objective = build("byol")
    encoder, batch = twins.encoder(POLICY), twins.batch(objective, 8)
    objective.attach(encoder)
    with torch.no_grad():
        for p in encoder.parameters():
            p.mul_(1.5)
    images = [encoder.augment(batch, view) for view in range(2)]
    expected = objective.terms(encoder(images), [], objective.target_encoder(images))
    assert_close(objective(batch, encoder), expected)
    assert objective.terms(encoder(images), [])["invariant"] != expected["invariant"]


# --- MoCo's queue


def test_the_queue_takes_both_views_after_they_were_contrasted():
    objective = build("moco", **BASES["moco"] | {"queue_size": 2 * B})
    objective.attach(twins.encoder(POLICY))
    views = [randn(B, D, seed=s) for s in (0, 1)]
    before = objective.agree.queue.rows.clone()
    objective.eval().terms(views, [], views)
    assert torch.equal(objective.agree.queue.rows, before)  # evaluation leaves it alone
    objective.train().terms(views, [], views)
    keys = torch.cat([objective.target_heads(v) for v in views])
    assert_close(objective.agree.queue.rows, keys / keys.norm(dim=1, keepdim=True))


def test_queue_and_copies_are_kept_back_from_publishing():
    for name, kept in (
        ("moco", {"agree", "target_encoder", "target_heads"}),
        ("byol", {"target_encoder", "target_heads"}),
    ):
        objective = build(name)
        objective.attach(twins.encoder(POLICY))
        hidden = set(objective.state_dict()) - set(objective.published())
        assert {k.partition(".")[0] for k in hidden} == kept


# --- MoCo v3's patch embedding


def test_the_patch_embedding_can_be_frozen():
    vit = timm.create_model("test_vit", num_classes=0, img_size=16)
    objective = build("moco_v3", freeze_patch_embedding=True)
    encoder = Encoder(POLICY, vit)
    objective.attach(encoder)
    frozen = {k for k, p in vit.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    with pytest.raises(ValueError, match="Pooled has no patch embedding; .* freeze_patch_embedding=false"):
        objective.attach(twins.encoder(POLICY))


# --- settings


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("byol", {"momentum": 1.5}, r"momentum is 1.5; it must be between 0 and 1, e.g. 0.99"),
        ("moco_v3", {"momentum": -0.1}, r"momentum is -0.1; it must be between 0 and 1"),
        ("moco", {"queue_size": 0}, "queue's size is 0; it must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        build(name, **settings)


@pytest.mark.parametrize("name", ["moco", "moco_v3"])
def test_a_temperature_that_is_not_positive_is_refused(name: str):
    objective = build(name, temperature=0)
    with pytest.raises(ValueError, match="temperature is 0; it must be positive"):
        objective.terms([randn(B, D), randn(B, D, seed=1)], [])


# --- info_nce in closed form


def test_equal_keys_give_the_log_of_the_number_of_candidates():
    x = torch.ones(B, 4)
    assert losses.info_nce(x, 2 * x, 0.2).item() == pytest.approx(math.log(B))
    assert losses.info_nce(x, x, 0.2, torch.ones(9, 4)).item() == pytest.approx(math.log(10))


def test_orthogonal_keys_have_a_closed_form():
    expected = math.log(math.exp(1 / 0.2) + B - 1) - 1 / 0.2
    assert losses.info_nce(torch.eye(B), 3 * torch.eye(B), 0.2).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"\(6, 4\) and \(5, 4\); a pair needs equal shapes"):
        losses.info_nce(torch.ones(6, 4), torch.ones(5, 4), 0.2)
