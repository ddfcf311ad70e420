"""Canonicalization: exact invariance of any weights, the gradient of the choice, digits, and the saved model.

Letters: B images, S image size, G elements of the group.
"""

import copy
import itertools
import math
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from digits import Digits, digits
from star_zoo import install, objectives, save_pretrained, wrapped_model, wrappers
from star_zoo.augmentations import Crop, Policy
from star_zoo.augmentations.presets import of_config
from star_zoo.groups import C4, D4, AveragePool, Group
from star_zoo.symmetry.canonicalizer import KINDS, Canonicalizer, build, prior
from star_zoo.wrappers.canonical import Canonical
from twins import MEAN, POLICY, STD, backbone, generator, randn
from twins import batch as batch_of
from twins import encoder as encoder_of

B, S = 5, 16
GROUPS = pytest.mark.parametrize("group", [C4, D4], ids=["c4", "d4"])
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def canonicalizer(group: Group, kind: str = "direct", seed: int = 0) -> Canonicalizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(kind, group, 3, 12)


def mean_features(x: Tensor) -> Tensor:
    """A backbone of a few lines, (B, 3, S, S) -> (B, 12): the means of the quarters of an image."""
    return F.adaptive_avg_pool2d(x, 2).flatten(1)


def canonical(group: str = "c4", kind: str = "direct", network: nn.Module | None = None) -> Canonical:
    network = network or backbone(pretrained_cfg_overlay={"input_size": (3, S, S), "mean": MEAN, "std": STD})
    return wrapped(network, group, kind)


def wrapped(network: nn.Module, group: str, kind: str, seed: int = 0) -> Canonical:
    policy = of_config(timm.data.resolve_model_data_config(network))
    return wrapped_model.savable(wrappers.build("canonical", [network], policy, group=group, kind=kind, seed=seed))


def poses(group: Group, x: Tensor) -> list[Tensor]:
    return [group.act_on_images(x, g) for g in range(group.order)]


# --- exact, whatever the weights


@EVERY_KIND
@GROUPS
@torch.no_grad()
def test_all_poses_of_an_image_have_one_canonical_image_and_the_chosen_element_moves_along(group: Group, kind: str):
    made, x = canonical(group.name, kind).eval(), randn(32, 3, S, S)
    chosen = made.activations(x).argmax(1)
    assert len(chosen.unique()) == group.order  # nothing is constant
    upright, features = made.canonical(x)[0], made(x)
    for image, own, found in zip(x, chosen, upright, strict=True):
        assert torch.equal(found, group.act_on_images(image, group.inverse(int(own))))
    for g, turned in enumerate(poses(group, x)):
        moved = made.activations(turned).argmax(1)
        assert moved.tolist() == [group.product(g, int(k)) for k in chosen]
        assert group is D4 or torch.equal(moved, (chosen + g) % 4)
        assert torch.equal(made.canonical(turned)[0], upright)
        rounding = 1e-5 if kind == "features" else 0  # it adds poses in another order
        assert_close(made(turned), features, rtol=rounding, atol=rounding)
    bare = made.backbones[0]
    assert float((bare(x.rot90(1, (2, 3))) - bare(x)).norm() / bare(x).norm()) > 0.01


@EVERY_KIND
@torch.no_grad()
def test_activations_of_a_network_are_those_of_each_pose_and_the_prior_is_their_closed_form(kind: str):
    made, x = canonicalizer(D4, kind).eval(), randn(B, 3, S, S)
    activations, penalty = made.activate(x, mean_features)
    expected = -activations.log_softmax(1)[:, 0].mean()
    if kind == "features":
        scores = [made.net(mean_features(D4.act_on_images(x, D4.inverse(g)))) for g in range(8)]
        assert_close(activations, torch.cat(scores, 1))
    if kind != "optimised":
        assert penalty == 0
    else:
        vectors = torch.stack([made.net(D4.act_on_images(x, D4.inverse(g))) for g in range(8)], 1)
        for b, g in itertools.product(range(B), range(8)):
            v, r = vectors[b, g], made.target
            assert_close(activations[b, g], (v @ r) / (v.norm() * r.norm()), rtol=1e-4, atol=1e-5)
        pairs = [(g, h) for g, h in itertools.product(range(8), repeat=2) if g != h]
        mean = sum(float((vectors[b, g] @ vectors[b, h]).abs()) for b in range(B) for g, h in pairs) / B / len(pairs)
        assert float(penalty) == pytest.approx(mean, rel=1e-4)
        expected = expected + 1e-4 * mean
    assert_close(prior(activations, penalty), expected)


def test_large_images_are_halved_before_the_choice():
    made, x = canonicalizer(C4).eval(), randn(2, 3, 130, 130)
    with torch.no_grad():
        halved = AveragePool()(AveragePool()(x[:, :, None]))[:, :, 0]
        assert halved.shape[-1] == 33 and torch.equal(made(x, mean_features), made(halved, mean_features))


@EVERY_KIND
@GROUPS
def test_in_training_the_value_is_the_hard_choice_and_the_gradient_that_of_the_softmax(group: Group, kind: str):
    made, x = canonicalizer(group, kind).train(), randn(B, 3, S, S)
    activations = made(x, mean_features).detach().requires_grad_()
    weights, pick = made.weights(activations), randn(B, group.order, seed=1)
    assert torch.equal(weights, F.one_hot(activations.argmax(1), group.order).float())
    turned = made.to_canonical(x, weights)
    hard = [
        group.act_on_images(image, group.inverse(int(g))) for image, g in zip(x, activations.argmax(1), strict=True)
    ]
    assert torch.equal(turned, torch.stack(hard))
    (found,) = torch.autograd.grad((weights * pick).sum(), activations)
    soft = activations.detach().requires_grad_()
    (expected,) = torch.autograd.grad((soft.softmax(1) * pick).sum(), soft)
    assert_close(found, expected)
    made.eval()
    assert not made.weights(activations).requires_grad


def squares(output: Tensor) -> Tensor:
    """A task's loss of each image."""
    return output.square().sum(1)


@EVERY_KIND
def test_the_tasks_gradient_reaches_the_canonicalizer_and_the_prior_has_its_own(kind: str):
    made, x = canonical("d4", kind).train(), randn(B, 3, S, S)
    twin = copy.deepcopy(made)
    made.losses(x, squares)[0].backward()
    for name, p in made.canonicalizer.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad.any() or len(p) == 1), name
    twin.losses(x, squares)[1].backward()
    assert all(p.grad.any() for p in twin.canonicalizer.parameters() if len(p) > 1)
    trained = [p.grad is not None for p in twin.backbones.parameters()]
    assert any(trained) == all(trained) == made.canonicalizer.trains_backbone


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "features"])
def test_the_tasks_loss_is_that_of_the_chosen_pose_and_the_other_that_of_the_activations(kind: str):
    made, x = canonical("d4", kind).eval(), randn(B, 3, S, S)
    task, upright = made.losses(x, squares)
    assert_close(task, squares(made(x)).mean())
    assert_close(upright, prior(*made.canonicalizer.activate(x, made.backbones[0])))


@GROUPS
@torch.no_grad()
def test_scores_of_features_weigh_the_tasks_loss_of_the_given_and_a_random_pose(group: Group):
    """A slow twin, image by image; every other pose is drawn."""
    made, x = canonical(group.name, "features").eval(), randn(40, 3, S, S)
    torch.manual_seed(1)
    found = made.losses(x, squares)
    torch.manual_seed(1)
    drawn = torch.randint(1, group.order, (40,)).tolist()
    assert set(drawn) == set(range(1, group.order))
    tasks, uprights = [], []
    for image, g in zip(x, drawn, strict=True):
        features = [made.backbones[0](group.act_on_images(image, k)[None]) for k in (0, g)]
        ours, other = (float(made.canonicalizer.net(each)) for each in features)
        p = 1 / (1 + math.exp(other - ours))
        losses = [float(squares(made.forward_head(each))) for each in features]
        tasks.append((0.8 * p + 0.1) * losses[0] + (0.8 * (1 - p) + 0.1) * losses[1])
        uprights.append(-math.log(p))
    assert_close(torch.stack(found), torch.tensor([sum(tasks), sum(uprights)]) / 40)


@GROUPS
@torch.no_grad()
def test_scored_features_are_the_mean_over_poses_by_their_probability(group: Group):
    made, x = canonical(group.name, "features").eval(), randn(B, 3, S, S)
    for image, found in zip(x, made.forward_features(x), strict=True):
        features = [made.backbones[0](group.act_on_images(image, g)[None])[0] for g in range(group.order)]
        odds = [math.exp(float(made.canonicalizer.net(each))) for each in features]
        mean = sum(odd * each for odd, each in zip(odds, features, strict=True)) / sum(odds)
        assert_close(found, mean, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found, features[0], rtol=1e-3)


@GROUPS
@torch.no_grad()
def test_maps_turn_with_the_images(group: Group):
    made, x = canonical(group.name).eval(), randn(B, 3, 48, 48)
    last, maps = made.forward_intermediates(x)
    bare_last, bare = made.backbones[0].forward_intermediates(made.canonical(x)[0])
    chosen = made.activations(x).argmax(1).tolist()
    for found, upright in zip((last, *maps), (bare_last, *bare), strict=True):
        expected = [group.act_on_images(m, g) for m, g in zip(upright, chosen, strict=True)]
        assert torch.equal(found, torch.stack(expected))
    for g, turned in enumerate(poses(group, x)):
        (found,) = made.forward_intermediates(turned, indices=[2], intermediates_only=True)
        assert torch.equal(found, group.act_on_images(maps[2], g))
    assert not torch.equal(maps[2], maps[2].rot90(1, (2, 3)))


# --- refused


def test_unknown_groups_and_kinds_other_settings_and_wide_images_are_refused():
    network, policy = backbone(), Policy((Crop(S),), MEAN, STD)
    saved = objectives.build("canonicalization", network.num_features, policy, group="d4")
    for settings, words in (
        ({"group": "c3"}, "group 'c3' not found"),
        ({"kind": "dirct"}, "kind of canonicalizer 'dirct' not found; did you mean 'direct'"),
    ):
        with pytest.raises(ValueError, match=words):
            wrappers.build("canonical", [network], policy, **settings)
    with pytest.raises(ValueError, match="group is c4; the saved canonicalizer's is d4: leave group out"):
        wrappers.build("canonical", [network], policy, saved, group="c4")
    with pytest.raises(ValueError, match="images are 16 x 20; a canonicalizer takes square ones: resize or crop"):
        canonical()(torch.zeros(2, 3, 16, 20))


# --- the objective, and saved models


@EVERY_KIND
@GROUPS
def test_the_objective_is_the_prior_on_upright_views_and_trains_no_backbone_without_need(group: Group, kind: str):
    encoder = encoder_of(POLICY)
    width = encoder.backbone.num_features
    objective = objectives.build("canonicalization", width, POLICY, group=group.name, kind=kind).eval()
    upright, names = {"quarter_turns", "vertical_flip", *(["flip"] if group is D4 else [])}, POLICY.fields
    plans = torch.cat([objective.plan(20, 30, generator(k)) for k in range(30)])
    assert all(plans[:, names.index(name)].any() == (name not in upright) for name in {*upright, "flip"})
    drawn = torch.stack([POLICY.draw(20, 30, generator(k)) for k in range(30)])
    others = [k for k, name in enumerate(names) if name not in upright]
    assert torch.equal(plans[:, others], drawn[:, others])
    batch = batch_of(objective, 4)
    objective.attach(encoder.eval())
    images = encoder.augment(batch, 0)
    terms = objective(batch, encoder)
    assert terms.keys() == {"prior"}
    activations, penalty = objective.canonicalizer.activate(images, encoder.backbone)
    assert_close(terms["prior"], F.cross_entropy(activations, torch.zeros(4).long()) + 1e-4 * penalty)
    terms["prior"].backward()
    trained = {p.requires_grad and p.grad is not None and bool(p.grad.any()) for p in encoder.parameters()}
    assert trained == {kind == "features"}


@EVERY_KIND
def test_a_model_that_was_saved_with_the_objective_has_its_canonicalizer(kind: str, tmp_path: Path):
    from star_training.models.create import create

    network = canonical().backbones[0].eval()
    policy, settings = Policy((Crop(S),), MEAN, STD), {"group": "d4", "kind": kind}
    objective = objectives.build("canonicalization", network.num_features, policy, **settings)
    save_pretrained(tmp_path / "mine" / "export", network, objective)
    made, x = create(f"canonical:{tmp_path / 'mine'}").eval(), randn(B, 3, S, S)
    objective.eval()
    assert made.canonicalizer.group is D4
    assert torch.equal(made.activations(x), objective.canonicalizer(x, network))
    other = create(f"canonical(group=d4,kind={kind}):untrained:{tmp_path / 'mine'}").eval()
    assert not torch.equal(other.activations(x), objective.canonicalizer(x, network))


@EVERY_KIND
@torch.no_grad()
def test_backbone_and_canonicalizer_are_one_saved_model(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    network = backbone("test_vit", img_size=S, pretrained_cfg_overlay={"input_size": (3, S, S), "mean": MEAN})
    made, x = canonical("d4", kind, network).eval(), randn(B, 3, S, S)
    made.reset_classifier(3)
    save_pretrained(tmp_path / "saved", made)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert torch.equal(again(x), made(x)) and again(x).shape == (B, 3)
    assert (again.canonicalizer.group, again.canonicalizer.kind) == (D4, kind)
    assert again.pretrained_cfg["architecture"] == "wrapped" and tuple(again.policy.mean) == MEAN
    features = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, num_classes=0).eval()
    assert torch.equal(features(x), made.forward_features(x))
    save_pretrained(tmp_path / "again", again)
    third = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    assert torch.equal(third(x), made(x))
    assert install(tmp_path / "saved", "star_wrapped.mine").is_dir()


# --- digits


class Small(nn.Module):
    """A small network without symmetry: (B, 3, S, S) -> (B, 10)."""

    num_features = head_hidden_size = 32
    num_classes = 0

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"architecture": "small", "input_size": (3, S, S), "mean": MEAN, "std": STD}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32),
            nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * (S // 4) ** 2, 32),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def trained(model: nn.Module, loss, part: Digits, steps: int, seed: int, lr: float = 1e-2) -> nn.Module:
    """The model after Adam with a cosine schedule on batches of 32."""
    g, optimizer = generator(seed), torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(part.labels), (32,), generator=g)
        optimizer.zero_grad()
        loss(model, part.images[rows], part.labels[rows]).backward()
        optimizer.step(), schedule.step()
    return model.eval()


def of_prior(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return prior(*model.canonicalizer.activate(images, model.backbones[0]))


def of_task(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    if not isinstance(model, Canonical):
        return F.cross_entropy(model(images), labels)
    task, upright = model.losses(images, lambda logits: F.cross_entropy(logits, labels, reduction="none"))
    return task + model.canonicalizer.prior_weight * upright


@torch.no_grad()
def accuracies(model: nn.Module, part: Digits) -> list[float]:
    """The accuracy at each quarter turn."""
    return [float((model(x).argmax(1) == part.labels).float().mean()) for x in poses(C4, part.images)]


def identities(kind: str, seed: int) -> float:
    """The share of held-out digits that a canonicalizer leaves as they are after 200 steps of the prior alone."""
    train, test = digits(1200, 400, seed, 8 if kind == "optimised" else S)  # it has a pass for each pose
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = wrapped(Small(), "c4", kind, seed)
    made = trained(made, of_prior, train, 200, seed)
    with torch.no_grad():
        return float((made.activations(test.images).argmax(1) == 0).float().mean())


def turned_digits(seed: int, steps: int) -> dict[str, list[float]]:
    """Accuracies of a network that was trained on upright digits, bare and with a canonicalizer."""
    train, test = digits(1300, 497, seed, S)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {"bare": Small(), "canonical": wrapped(Small(), "c4", "direct", seed)}
    return {name: accuracies(trained(model, of_task, train, steps, seed), test) for name, model in networks.items()}


@EVERY_KIND
def test_the_prior_alone_learns_upright_digits(kind: str):
    assert identities(kind, 0) > (0.9 if kind == "direct" else 0.88)


def test_digits_are_recognised_in_poses_that_training_lacked():
    found = turned_digits(0, 200)
    bare, wrapped = (sum(values) / 4 for values in found.values())
    assert wrapped > bare + 0.15
    assert found["canonical"][0] > found["bare"][0] - 0.03
    assert len(set(found["canonical"])) == 1
