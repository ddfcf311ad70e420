"""Pretext labels on which the group acts, on real images through the augmentations.

Letters: B images, K labels, G elements of the group.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import Encoder, Objective
from star_zoo.augmentations import Augmentation, Flip, Jigsaw, QuarterTurn, VerticalFlip
from star_zoo.groups import C4, D4, Group
from star_zoo.objectives.group_labels import ACTIONS, turned_orders, turned_rotations
from twins import NUM_FEATURES, POLICY, Turning, build, photos, randn

KINDS = {"rotation": 4, "jigsaw": 24}
GROUPS = pytest.mark.parametrize("group", [C4, D4], ids=lambda group: group.name)


def made(kind: str, group: Group = C4) -> tuple[Objective, Encoder]:
    torch.manual_seed(0)
    objective = build("group_labels", kind=kind)
    encoder = Encoder(objective.policy, Turning(group))
    objective.attach(encoder)
    return objective, encoder


def each(augmentation: Augmentation, image: Tensor, count: int) -> Tensor:
    """The image under each value of an augmentation's field: (count, 3, S, S)."""
    return augmentation.apply(image.expand(count, -1, -1, -1), torch.arange(count, dtype=torch.float32)[:, None])


# The action on labels


@GROUPS
def test_a_turned_order_of_quadrants_is_the_mapped_order_of_the_turned_image(group: Group):
    """label(g x) = pi_g(label(x)): 24 orders under every element, to the same bits."""
    image = photos(1, 16, 16)[0].float()
    for g in range(group.order):
        turned = group.act_on_images(each(Jigsaw(), image, 24), g)
        of_turned = each(Jigsaw(), group.act_on_images(image, g), 24)
        table = turned_orders(group, g)
        assert torch.equal(turned, of_turned[table])
        for k, x in enumerate(turned):  # and no other order fits
            assert [n for n in range(24) if torch.equal(x, of_turned[n])] == [table[k]]


def test_a_turned_rotation_is_the_mapped_rotation():
    image = photos(1, 16, 16)[0].float()
    rotated = each(QuarterTurn(), image, 4)
    for g in range(4):
        assert torch.equal(rotated.rot90(g, (-2, -1)), rotated[turned_rotations(C4, g)])
    flipped = each(QuarterTurn(), image.flip(-1), 4)  # an upright image too
    for g in range(4, 8):
        assert torch.equal(D4.act_on_images(rotated, g), flipped[turned_rotations(D4, g)])


@GROUPS
@pytest.mark.parametrize("kind", KINDS)
def test_the_group_acts_on_the_labels(kind: str, group: Group):
    tables = [ACTIONS[kind](group, g) for g in range(group.order)]
    same = list(range(KINDS[kind]))
    assert tables[0] == same
    for g, table in enumerate(tables):
        assert sorted(table) == same  # a bijection
        for h, other in enumerate(tables):
            assert [table[k] for k in other] == tables[group.product(g, h)]
    quarter, after = tables[1], same
    assert quarter != same
    for _ in range(4):
        after = [quarter[k] for k in after]
    assert after == same  # pi^4 is the identity


# The logits


@GROUPS
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_a_turned_image_are_the_permuted_logits(kind: str, group: Group):
    objective, encoder = made(kind, group)
    images = randn(5, 3, 16, 16)
    for training in (True, False):
        objective.train(training), encoder.train(training)
        logits = objective.logits(encoder.backbone.regular_features(images))
        assert logits.shape == (5, KINDS[kind])
        for g in range(group.order):
            found = objective.logits(encoder.backbone.regular_features(group.act_on_images(images, g)))
            table = ACTIONS[kind](group, g)
            assert (found[:, table] - logits).abs().max() < 1e-5  # logits(g x)[pi(k)] = logits(x)[k]
    assert (logits[:, ACTIONS[kind](group, 1)] - logits).abs().max() > 1e-3  # which they aren't already


def test_logits_are_the_mean_of_permuted_heads():
    objective, _ = made("jigsaw")
    objective.eval()
    z = randn(3, NUM_FEATURES, 4)
    expected = torch.zeros(3, 24)
    for g in range(4):
        own = objective.heads(z[..., g])
        for k, label in enumerate(turned_orders(C4, g)):
            expected[:, label] += own[:, k] / 4
    assert_close(objective.logits(z), expected)


# The objective


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_is_what_the_objective_drew_and_nothing_else_turns(kind: str):
    objective, encoder = made(kind)
    kinds = [type(a) for a in objective.policy.augmentations]
    assert kinds[-1] is {"rotation": QuarterTurn, "jigsaw": Jigsaw}[kind] and Flip in kinds
    assert sum(k in (QuarterTurn, Jigsaw, VerticalFlip) for k in kinds) == 1
    assert {QuarterTurn, Jigsaw, VerticalFlip} < {type(a) for a in POLICY.augmentations}
    batch = twins.batch(objective, 32)
    labels = batch.params[0][:, -1].long()
    assert objective.policy.fields[-1] in ("quarter_turns", "jigsaw")
    assert len(labels.unique()) > 3
    logits = objective.logits(encoder.backbone.regular_features(encoder.augment(batch, 0)))
    expected = -torch.stack([row.log_softmax(0)[k] for row, k in zip(logits, labels, strict=True)]).mean()
    assert_close(objective(batch, encoder), {"label": expected})


def test_it_learns_which_way_is_up():
    objective, encoder = made("rotation")
    light = torch.linspace(1, -1, 16)[:, None].expand(16, 16)  # from above
    images = (light + randn(32, 3, 16, 16)).contiguous()
    labels = torch.arange(32) % 4
    turned = torch.stack([x.rot90(int(k), (-2, -1)) for x, k in zip(images, labels, strict=True)])
    optimizer = torch.optim.Adam([*objective.parameters(), *encoder.parameters()], 0.01)
    for _ in range(30):
        logits = objective.logits(encoder.backbone.regular_features(turned))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    assert (logits.argmax(1) == labels).float().mean() > 0.9


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind of label 'blur' not found; known: rotation, jigsaw"):
        build("group_labels", kind="blur")
