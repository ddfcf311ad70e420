"""AugSelf: targets, losses and heads of each augmentation against the formulas.

Letters: B images, A numbers that describe an augmentation.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import twins
from star_zoo import Policy, objectives
from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip, Grayscale, QuarterTurn, Spirograph, VerticalFlip
from star_zoo.objectives import augself
from twins import MEAN, NUM_FEATURES, POLICY, STD, build, draws, generator, randn

B = 8
ALL = {"weights": dict.fromkeys((n for n in augself.TASKS if n != "Spirograph"), 1.0)}


def parts(**settings):
    objective = build("augself", predictor_hidden=6, **settings)
    return objective, twins.encoder(objective.policy), twins.batch(objective, B)


def value(params, row: int, name: str) -> float:
    return params[row, POLICY.fields.index(name)].item()


def slow_difference(first, second, row: int, name: str) -> list[float]:
    """AugSelf, section 3 and released transforms: first minus second, in the units of each augmentation."""

    def described(params) -> list[float]:
        if name == "Crop":
            top, left, h, w = (value(params, row, f) for f in ("top", "left", "height", "width"))
            y, x = top + h / 2, left + w / 2
            flipped = [value(params, row, f) for f in ("vertical_flip", "flip")]
            return [*(1 - c if flip else c for c, flip in zip((y, x), flipped, strict=True)), h, w]
        jitter = ColorJitter()
        factors = [(value(params, row, f) - 1) / getattr(jitter, f) for f in ("brightness", "contrast", "saturation")]
        return [*factors, value(params, row, "hue") / jitter.hue]

    return [a - b for a, b in zip(described(first), described(second), strict=True)]


@pytest.mark.parametrize("name", ["Crop", "ColorJitter"])
def test_the_published_tasks_equal_loops(name: str):
    objective, encoder, batch = parts()
    terms = objective(batch, encoder)
    assert list(terms) == ["invariant", "Crop", "ColorJitter"]
    f1, f2 = (encoder([encoder.augment(batch, view)])[0] for view in range(2))
    pairs = torch.cat((torch.cat((f1, f2), 1), torch.cat((f2, f1), 1)))
    outputs = objective.predictors[name](pairs).tanh()
    p1, p2 = batch.params
    targets = [slow_difference(p1, p2, row, name) for row in range(B)]
    targets += [slow_difference(p2, p1, row, name) for row in range(B)]
    expected = sum(
        (outputs[i, k] - targets[i][k]) ** 2 for i in range(2 * B) for k in range(4)
    ) / (8 * B)  # fmt: skip
    assert_close(terms[name], expected)
    ours, theirs = (torch.autograd.grad(x, list(encoder.parameters())) for x in (terms[name], expected))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_differences_are_antisymmetric():
    objective, size = build("augself", **ALL), torch.tensor([[20, 30]] * B)
    p1, p2 = draws(POLICY, B), draws(POLICY, B, seed=1)
    for name, task in augself.TASKS.items():
        if name == "Spirograph":
            continue
        a, b = (objective.described(name, p, size) for p in (p1, p2))
        if task is augself.turn:
            assert ((a - b).long() % 4 + (b - a).long() % 4).remainder(4).eq(0).all()
            assert torch.equal(a, p1[:, [POLICY.fields.index("quarter_turns")]])
        elif task is augself.same:
            logits = randn(B, 1)
            assert augself.same(logits, a, b) == augself.same(logits, b, a)
        else:
            output = randn(B, a.shape[1])
            assert_close(augself.shift(output, a, b), augself.shift(-output, b, a))


def test_an_augmentation_that_does_not_act_is_described_by_zeros():
    objective, base = build("augself", **ALL), POLICY.base(20, 30).expand(B, -1)
    for name in ALL["weights"]:
        described = objective.described(name, base, torch.tensor([[20, 30]] * B))
        expected = [0.5, 0.5, 1.0, 20 / 30] if name == "Crop" else [0.0] * described.shape[1]
        assert_close(described, torch.tensor(expected).expand(B, -1))


def test_pixels_and_fractions_describe_a_crop_alike():
    size = torch.tensor([[20, 30]] * B)
    found = []
    for unit in ("fraction", "pixel"):
        policy = Policy((Crop(16, unit=unit),), MEAN, STD)
        objective = objectives.build("augself", NUM_FEATURES, policy)
        g = generator(4)
        found.append(objective.described("Crop", torch.stack([policy.draw(20, 30, g) for _ in range(B)]), size))
    assert_close(*found)


def test_a_flip_mirrors_the_centre():
    fractions = torch.tensor([[0.1, 0.2, 0.4, 0.3]] * 2)
    assert_close(
        augself.box(fractions, torch.tensor([0.0, 1.0])), torch.tensor([[0.3, 0.35, 0.4, 0.3], [0.3, 0.65, 0.4, 0.3]])
    )
    assert_close(augself.box(fractions, None)[0], torch.tensor([0.3, 0.35, 0.4, 0.3]))


def test_a_crops_centre_is_that_of_the_flipped_view():
    """A view flipped both ways is the view of the image that was turned by half a turn, with the box turned."""
    policy = Policy((Crop(16), Flip(), VerticalFlip()), MEAN, STD)
    objective = objectives.build("augself", NUM_FEATURES, policy)
    params = torch.tensor([[0.1, 0.2, 0.3, 0.4, x, y] for x in (0.0, 1.0) for y in (0.0, 1.0)])
    found = objective.described("Crop", params, torch.tensor([[20.0, 30.0]] * 4))
    assert_close(found[:, :2], torch.tensor([[0.25, 0.4], [0.75, 0.4], [0.25, 0.6], [0.75, 0.6]]))


def test_losses_have_closed_forms():
    zeros = torch.zeros(3, 1)
    a, b = torch.tensor([[1.0], [0.0], [3.0]]), torch.tensor([[1.0], [3.0], [0.0]])
    assert augself.same(zeros, a, b).item() == pytest.approx(math.log(2))
    assert augself.turn(torch.zeros(3, 4), a, b).item() == pytest.approx(math.log(4))
    sure = F.one_hot(torch.tensor([0, 1, 3]), 4) * 50.0  # 0, 0 - 3 and 3 - 0 modulo 4
    assert augself.turn(sure, a, b).item() == pytest.approx(0, abs=1e-6)
    assert augself.shift(zeros, a, b).item() == pytest.approx((0 + 9 + 9) / 3)


def test_each_head_has_as_many_outputs_as_its_task_needs():
    objective = build("augself", **ALL)
    outputs = {name: head[-1].out_features for name, head in objective.predictors.items()}
    assert outputs == {
        "Crop": 4, "ColorJitter": 4, "Solarize": 1, "Blur": 1, "Flip": 1, "VerticalFlip": 1, "Grayscale": 1,
        "Invert": 1, "QuarterTurn": 4,
    }  # fmt: skip
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    terms = objective(batch, encoder)
    assert list(terms) == ["invariant", *ALL["weights"]]
    assert all(t.isfinite() for t in terms.values())


def test_spirographs_are_described_by_shares_of_their_ranges():
    policy = Policy((Spirograph(32),), MEAN, STD)
    objective = objectives.build("augself", NUM_FEATURES, policy)
    assert objective.weights == {"Spirograph": 1.0}
    described = objective.described("Spirograph", draws(policy, 50), torch.ones(50, 2))
    assert 0 <= described.min() < 0.1 and 0.9 < described.max() <= 1
    base = objective.described("Spirograph", policy.base(1, 1)[None], torch.ones(1, 2))
    assert_close(base, torch.full((1, 6), 0.5))


def test_weights_scale_their_own_terms():
    objective, encoder, batch = parts()
    other, _, _ = parts(weights={"Crop": 0.5, "ColorJitter": 0.0})
    other.load_state_dict(objective.state_dict())
    a, b = objective(batch, encoder), other(batch, encoder)
    assert_close([b["Crop"], b["ColorJitter"], b["invariant"]], [a["Crop"] / 2, a["Crop"] * 0, a["invariant"]])


def test_augmentations_without_a_task_are_refused():
    policy = Policy((Crop(16), Flip(), Grayscale(), QuarterTurn(), Blur()), MEAN, STD)
    with pytest.raises(ValueError, match="'ColorJitter' not found; known: Crop, Flip, Grayscale, QuarterTurn, Blur$"):
        objectives.build("augself", NUM_FEATURES, policy, weights={"ColorJitter": 1.0})
    with pytest.raises(ValueError, match="augmentation of the policy with a task 'Jigsaw' not found"):
        build("augself", weights={"Jigsaw": 1.0})
    assert objectives.build("augself", NUM_FEATURES, policy).weights == {"Crop": 1.0}
