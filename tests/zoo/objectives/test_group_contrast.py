"""Contrast up to a group, against its statement in explicit loops.

Letters: B images, O embedding size, G elements of the group.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import Encoder, Objective, objectives
from star_zoo.groups import C4, D4, Group
from star_zoo.losses import nt_xent
from star_zoo.objectives._group import by_element
from star_zoo.objectives.group_contrast import orbit_similarity
from twins import NUM_FEATURES, POLICY, Turning, backbone, build, photos, randn

B = 6


class Plain(Encoder):
    """An encoder whose views are the images themselves, so that a test can turn them."""

    def augment(self, batch, view):
        return batch.views[view].float() / 255 - 0.5


def made(group: Group = C4, **settings) -> tuple[Objective, Encoder, list[Tensor]]:
    """An objective in training, its encoder, and two views."""
    torch.manual_seed(0)
    objective, encoder = build("group_contrast", **settings), Plain(POLICY, Turning(group))
    objective.attach(encoder)
    return objective, encoder, [photos(B, 16, 16, seed) for seed in (0, 1)]


def loss(objective: Objective, encoder: Encoder, views: list[Tensor]) -> Tensor:
    batch = twins.batch(objective, B)._replace(views=views)
    return objective(batch, encoder)["invariant"]


def slow(views: list[Tensor], pool: str, temperature: float) -> float:
    """The mean over anchors of -log of the share of the positive: embeddings (B, O, 4) of two views, in Python floats.

    A turn by k moves the value of element h to element h + k.
    """
    rows = [z[b].tolist() for z in views for b in range(B)]

    def similarity(a: list[list[float]], b: list[list[float]]) -> float:
        size = [math.sqrt(sum(x * x for channel in z for x in channel)) for z in (a, b)]
        found = [
            sum(a[c][(h - k) % 4] * b[c][h] for c in range(len(a)) for h in range(4)) / size[0] / size[1]
            for k in range(4)
        ]
        return max(found) / temperature if pool == "max" else math.log(sum(math.exp(x / temperature) for x in found))

    total = 0.0
    for i, anchor in enumerate(rows):
        scores = {j: math.exp(similarity(anchor, other)) for j, other in enumerate(rows) if j != i}
        total -= math.log(scores[(i + B) % (2 * B)] / sum(scores.values()))
    return total / len(rows)


@pytest.mark.parametrize("pool", ["max", "logsumexp"])
def test_the_loss_is_that_of_explicit_loops(pool: str):
    objective, encoder, views = made(pool=pool, temperature=0.3, embed_dim=5)
    found = loss(objective, encoder, views)
    images = [view.float() / 255 - 0.5 for view in views]
    embeddings = [by_element(objective.heads, encoder.backbone.regular_features(x)) for x in images]  # a view at a time
    assert embeddings[0].shape == (B, 5, 4)
    assert found.item() == pytest.approx(slow(embeddings, pool, 0.3), rel=1e-5)
    plain = nt_xent(*(z.flatten(1) for z in embeddings), 0.3)
    assert abs(found.item() - plain.item()) > 0.01


@pytest.mark.parametrize("pool", ["max", "logsumexp"])
@pytest.mark.parametrize("group", [C4, D4], ids=lambda group: group.name)
def test_views_turned_independently_have_the_same_loss_and_gradient(group: Group, pool: str):
    objective, encoder, views = made(group, pool=pool)
    turned = [
        torch.stack([group.act_on_images(x, (seed + 3 * b) % group.order) for b, x in enumerate(view)])
        for seed, view in enumerate(views, start=1)
    ]
    weights = [*objective.parameters(), *encoder.parameters()]
    gradients = []
    for images in (views, turned):
        value = loss(objective, encoder, images)
        gradients.append([value.detach(), *torch.autograd.grad(value, weights)])
    assert abs(gradients[0][0] - gradients[1][0]) < 1e-5
    for before, after in zip(*gradients, strict=True):
        assert before.isfinite().all()
        assert_close(after, before, rtol=1e-3, atol=1e-5)
    other = [view.roll(1, 2) for view in views]  # no element of the group
    assert abs(loss(objective, encoder, other) - gradients[0][0]) > 1e-4


def test_the_similarity_of_an_orbit_is_one_at_most():
    z = torch.nn.functional.normalize(randn(3, 4 * 5), dim=1)
    turned = C4.act_on_features(z.view(3, 5, 4), 3).flatten(1)
    found = orbit_similarity(z, turned, C4, None)
    assert_close(found.diagonal(), torch.ones(3))
    assert_close(found, orbit_similarity(turned, z, C4, None).T)
    smooth = orbit_similarity(z, turned, C4, 0.1)
    assert (smooth > found).all() and (smooth < found + 0.1 * math.log(4) + 1e-6).all()


def test_a_head_by_element_is_one_head_for_each_element():
    head, z = build("group_contrast").heads.eval(), randn(B, NUM_FEATURES, 4)
    found = by_element(head, z)
    for g in range(4):
        assert_close(found[..., g], head(z[..., g]))
    assert_close(by_element(head, C4.act_on_features(z, 1)), C4.act_on_features(found, 1))


def test_regular_features_of_views_are_those_of_each_alone():
    encoder, images = Encoder(POLICY, Turning()), [randn(B, 3, 16, 16), randn(B, 3, 16, 16, seed=1), randn(B, 3, 8, 8)]
    found = encoder.regular(images)
    for x, z, pooled in zip(images, found, encoder(images), strict=True):
        assert_close(z, encoder.backbone.regular_features(x))
        assert_close(z.mean(2), pooled)


@pytest.mark.parametrize("name", [name for name in objectives.known() if objectives.find(name).needs_group])
def test_a_backbone_without_regular_features_is_refused(name: str):
    with pytest.raises(ValueError, match=r"^ResNet has no regular_features; .* use .* backbone=star_c4_resnet10t$"):
        build(name).attach(Encoder(POLICY, backbone()))


def test_an_unknown_pool_is_refused():
    with pytest.raises(ValueError, match="pool 'mean' not found; known: max, logsumexp"):
        build("group_contrast", pool="mean")
