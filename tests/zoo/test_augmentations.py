"""What every augmentation keeps: its draws, its base values, equal images for equal params.

Most tests run over all known augmentations, so that a new one is tested by existing. The colours, the blur, the crop
and the spirograph have their own truths in test_augmentations_color.py and test_augmentations_crop.py.
"""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from star_zoo.augmentations import (
    Augmentation,
    Blur,
    ColorJitter,
    Crop,
    Flip,
    Framing,
    Grayscale,
    Invert,
    Jigsaw,
    Policy,
    QuarterTurn,
    Solarize,
    Spirograph,
    VerticalFlip,
)
from star_zoo.augmentations.policy import KNOWN
from twins import MEAN, STD, Kernels, draws, every_operation, generator, make, photos, repeatable

OPERATIONS = sorted(name for name, kind in KNOWN.items() if not issubclass(kind, Framing))
CHANCES = sorted(name for name, kind in KNOWN.items() if "p" in {f.name for f in dataclasses.fields(kind)})
SEEDS = st.integers(0, 2**32 - 1)


def alone(name: str, **settings: Any) -> Policy:
    """A policy with one augmentation, after a crop where it needs one."""
    made = make(name, **settings)
    return Policy((made,) if isinstance(made, Framing) else (Crop(16), made), MEAN, STD)


# --- fields


def test_no_two_augmentations_share_the_name_of_a_field():
    names = [name for kind in KNOWN.values() for name in kind.fields]
    assert len(names) == len(set(names))


def test_a_policys_fields_lie_in_the_order_of_its_augmentations():
    policy = Policy((Crop(16), Blur(), Flip()), MEAN, STD)
    assert policy.fields == ("top", "left", "height", "width", "blur_sigma", "flip")
    assert policy.base(20, 40).tolist() == [0, 0.25, 1, 0.5, 0, 0]


@pytest.mark.parametrize("name", KNOWN)
def test_base_and_draw_give_one_number_for_each_field(name: str):
    policy = alone(name)
    for params in (policy.base(30, 40), policy.draw(30, 40, generator(0))):
        assert params.shape == (len(policy.fields),)
        assert params.dtype == torch.float32


# --- drawing


@pytest.mark.parametrize("name", CHANCES)
@given(seed=SEEDS)
@repeatable
def test_an_operation_that_never_acts_draws_its_base(name: str, seed: int):
    policy = Policy((Crop(16), make(name, p=0.0)), MEAN, STD)
    assert torch.equal(policy.draw(20, 30, generator(seed))[4:], policy.base(20, 30)[4:])


RANGES = {
    "flip": {1.0},
    "grayscale": {1.0},
    "solarize": {1.0},
    "vertical_flip": {1.0},
    "invert": {1.0},
    "quarter_turns": {0.0, 1.0, 2.0, 3.0},
    "jigsaw": {float(k) for k in range(24)},
    "brightness": (0.7, 1.3),
    "contrast": (0.0, 2.5),  # 1 - 1.5 is below zero
    "saturation": (0.9, 1.1),
    "hue": (-0.2, 0.2),
    "blur_sigma": (0.3, 0.9),
    "h": (0.5, 2.5),
    "rback": (0.0, 0.6),
    "gfore": (0.4, 1.0),
    "gback": (0.0, 0.6),
    "bfore": (0.4, 1.0),
    "bback": (0.0, 0.6),
}
ACTING = (
    Flip(p=1.0),
    Grayscale(p=1.0),
    Solarize(p=1.0),
    VerticalFlip(p=1.0),
    Invert(p=1.0),
    QuarterTurn(),
    Jigsaw(),
    ColorJitter(0.3, 1.5, 0.1, 0.2, p=1.0),
    Blur(sigma=(0.3, 0.9), p=1.0),
)


@pytest.mark.parametrize("policy", [Policy((Crop(16), *ACTING), MEAN, STD), Policy((Spirograph(16),), MEAN, STD)])
@given(seed=SEEDS)
@repeatable
def test_an_operation_that_acts_draws_within_its_range(policy: Policy, seed: int):
    drawn = dict(zip(policy.fields, policy.draw(20, 30, generator(seed)).tolist(), strict=True))
    for name, value in drawn.items():
        allowed = RANGES.get(name)
        if isinstance(allowed, set):
            assert value in allowed, name
        elif allowed:  # the crop's fields have tests of their own
            assert allowed[0] - 1e-6 <= value <= allowed[1] + 1e-6, name


def test_all_four_quarter_turns_are_drawn_equally_often():
    turns = draws(Policy((Crop(16), QuarterTurn()), MEAN, STD), 2000)[:, 4]
    assert turns.unique().tolist() == [0, 1, 2, 3]
    assert all(abs((turns == k).float().mean().item() - 0.25) < 0.04 for k in range(4))


def test_all_permutations_and_levels_of_blur_are_drawn_equally_often():
    policy = Policy((Crop(16), Jigsaw(), Blur(levels=(0.0, 1.0, 2.5), p=1.0)), MEAN, STD)
    jigsaw, blur = draws(policy, 4000)[:, 4:].unbind(1)
    assert jigsaw.unique().tolist() == list(range(24))
    assert all(abs((jigsaw == k).float().mean().item() - 1 / 24) < 0.013 for k in range(24))  # four standard errors
    assert blur.unique().tolist() == [0, 1, 2.5]
    assert all(abs((blur == sigma).float().mean().item() - 1 / 3) < 0.03 for sigma in (0, 1, 2.5))


@given(seed=SEEDS)
@repeatable
def test_a_draw_is_a_pure_function_of_the_generator(seed: int):
    policy = every_operation()
    first = policy.draw(20, 30, generator(seed))
    torch.rand(1)  # the global generator has no say
    assert torch.equal(policy.draw(20, 30, generator(seed)), first)


def test_all_parameters_but_those_of_a_box_are_drawn_independently():
    correlation = torch.corrcoef(draws(every_operation(), 2000).T).fill_diagonal_(0)
    assert correlation[4:].abs().max() < 0.1  # four standard errors


def test_two_draws_in_a_row_differ():
    g = generator(0)
    assert not torch.equal(every_operation().draw(20, 30, g), every_operation().draw(20, 30, g))


def test_a_draw_moves_the_generator_as_far_whatever_it_drew():
    policy, moved = every_operation(), []
    for height, width in ((20, 30), (3000, 2)):  # the second fits no box
        g = generator(0)
        policy.draw(height, width, g)
        moved.append(torch.rand(3, generator=g))
    assert torch.equal(*moved)


# --- applying


def test_base_params_change_nothing_but_the_normalisation():
    policy, images = every_operation(16), photos(4, 16, 16)
    views = torch.stack([policy.crop(image, policy.base(16, 16)) for image in images])
    assert torch.equal(views, images)
    expected = (images.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.equal(policy.apply(views, policy.base(16, 16).expand(4, -1)), expected)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_can_change_an_image(name: str):
    policy, images = alone(name), photos(32, 16, 16)
    params = draws(policy, 32)
    acts = (params[:, 4:] != policy.base(16, 16)[4:]).any(1)
    untouched = policy.apply(images, policy.base(16, 16).expand(32, -1))
    changed = (policy.apply(images, params) != untouched).flatten(1).any(1)
    assert acts.any()
    assert torch.equal(changed, acts)  # on random pixels nothing that acts is without effect


@pytest.mark.parametrize("name", OPERATIONS)
def test_equal_params_give_equal_images_in_any_batch(name: str):
    policy, images = alone(name), photos(8, 16, 16)
    params = draws(policy, 8, seed=1)
    together = policy.apply(images, params)
    order = torch.tensor([5, 2, 7])
    assert torch.equal(policy.apply(images[order], params[order]), together[order])
    assert_close(policy.apply(images[:1], params[:1]), together[:1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_as_many_kernels_whatever_the_batch(name: str):
    policy, counted = alone(name), []
    for count in (2, 9):
        params = draws(policy, count)
        with Kernels() as kernels:
            policy.apply(photos(count, 16, 16), params)
        counted.append(kernels.names)
    assert counted[0] == counted[1]


def test_operations_act_in_their_order():
    images = photos(2, 16, 16)
    flip_then_turn = Policy((Crop(16), Flip(), QuarterTurn()), (0.0,) * 3, (1.0,) * 3)
    turn_then_flip = Policy((Crop(16), QuarterTurn(), Flip()), (0.0,) * 3, (1.0,) * 3)
    params = torch.tensor([[0, 0, 1, 1, 1.0, 1.0]] * 2)
    x = images.float() / 255
    assert torch.equal(flip_then_turn.apply(images, params), x.flip(3).rot90(1, (2, 3)))
    assert torch.equal(turn_then_flip.apply(images, params), x.rot90(1, (2, 3)).flip(3))


def test_apply_refuses_params_of_another_shape():
    policy = Policy((Crop(16), Flip()), MEAN, STD)
    for wrong in (torch.zeros(2, 4), torch.zeros(3, 5), torch.zeros(5)):
        with pytest.raises(ValueError, match=r"2 images under this policy need \(2, 5\), columns top, left,"):
            policy.apply(photos(2, 16, 16), wrong)


# --- settings out of range


@pytest.mark.parametrize("p", [-3.0, -1e-9, 1 + 1e-9, 2, float("nan")])
@pytest.mark.parametrize("name", CHANCES)
def test_a_probability_outside_0_to_1_is_refused(name: str, p: float):
    with pytest.raises(ValueError, match=f"^{name}'s p is {p}; it must be a probability, from 0 to 1$"):
        KNOWN[name](p=p)


@pytest.mark.parametrize("name", CHANCES)
def test_both_ends_of_the_probabilities_are_accepted(name: str):
    assert [KNOWN[name](p=p).p for p in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Blur", {"sigma": (-0.1, 2.0)}),
        ("Blur", {"sigma": (2.0, 0.1)}),
        ("Blur", {"sigma": (0.1, float("inf"))}),
        ("Blur", {"levels": (0.5, -1.0)}),
        ("ColorJitter", {"brightness": -0.1}),
        ("ColorJitter", {"contrast": float("nan")}),
        ("ColorJitter", {"saturation": float("inf")}),
        ("ColorJitter", {"hue": 0.6}),
        ("Solarize", {"threshold": -0.1}),
        ("Solarize", {"threshold": 1.5}),
        ("Crop", {"size": 16, "scale": (0.0, 1.0)}),
        ("Crop", {"size": 16, "scale": (0.5, 1.1)}),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(name: str, settings: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{list(settings)[-1]} (is|are) "):
        KNOWN[name](**settings)


# --- flips and turns


def test_flip_mirrors_left_and_right_where_its_field_is_one():
    x = photos(3, 4, 5).float()
    out = Flip().apply(x, torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(out[1], x[1])
    for i in (0, 2):
        for column in range(5):
            assert torch.equal(out[i, :, :, column], x[i, :, :, 4 - column])


def test_quarter_turn_turns_each_image_by_its_own_number():
    x = photos(4, 6, 6).float()
    out = QuarterTurn().apply(x, torch.arange(4.0)[:, None])
    for turns in range(4):
        assert torch.equal(out[turns], torch.rot90(x[turns], turns, (1, 2)))


def test_vertical_flip_mirrors_top_and_bottom_where_its_field_is_one():
    x = photos(3, 4, 5).float()
    out = VerticalFlip().apply(x, torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(out[1], x[1])
    for i in (0, 2):
        for row in range(4):
            assert torch.equal(out[i, :, row], x[i, :, 3 - row])


# --- the jigsaw


def test_a_jigsaw_puts_each_quadrant_at_its_place_of_the_permutation():
    x = photos(24, 6, 8).float()
    out = Jigsaw().apply(x, torch.arange(24.0)[:, None])
    halves = [[slice(0, side // 2), slice(side // 2, side)] for side in (6, 8)]
    places = [(slice(None), rows, columns) for rows in halves[0] for columns in halves[1]]
    for image, order in enumerate(itertools.permutations(range(4))):
        for place, quadrant in enumerate(order):
            assert torch.equal(out[image][places[place]], x[image][places[quadrant]])


@pytest.mark.parametrize(("height", "width"), [(5, 4), (4, 5)])
def test_a_jigsaw_refuses_an_odd_number_of_pixels(height: int, width: int):
    with pytest.raises(ValueError, match=f"views are {height} x {width} pixels; the jigsaw needs an even number"):
        Jigsaw().apply(photos(2, height, width).float(), torch.zeros(2, 1))


# --- what can be undone


@pytest.mark.parametrize(
    ("operation", "values"),
    [(Flip(), 2), (VerticalFlip(), 2), (Invert(), 2), (QuarterTurn(), 4), (Jigsaw(), 24)],
    ids=lambda value: type(value).__name__,
)
def test_each_value_is_undone_by_exactly_one_value(operation: Augmentation, values: int):
    x = torch.arange(256).repeat(3).reshape(1, 3, 16, 16).float() / 255  # every value of eight bits
    done = [operation.apply(x, torch.tensor([[float(k)]])) for k in range(values)]
    assert len({one.numpy().tobytes() for one in done}) == values
    for one in done:
        undone = [torch.equal(operation.apply(one, torch.tensor([[float(k)]])), x) for k in range(values)]
        assert sum(undone) == 1
