"""The policy: its statistics against closed forms, its way to JSON and back, and what it refuses."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from star_zoo import released
from star_zoo.augmentations import (
    Augmentation,
    Blur,
    ColorJitter,
    Crop,
    Flip,
    Framing,
    Grayscale,
    Policy,
    QuarterTurn,
    Solarize,
    Spirograph,
)
from star_zoo.augmentations import policy as policy_module
from star_zoo.augmentations.policy import KNOWN
from twins import MEAN, STD, every_operation, generator, make, photos

# --- statistics


def test_statistics_of_the_draws_are_those_of_their_distributions():
    policy = Policy((Crop(96), Flip(), ColorJitter(), Grayscale(), Solarize(), QuarterTurn(), Blur()), MEAN, STD)
    acting = 0.4 * math.sqrt(0.8 / 3)  # a uniform of half width 0.4 in 80 of 100 draws
    blur = math.sqrt(0.5 * ((2.0**3 - 0.1**3) / (3 * 1.9)) - (0.5 * 1.05) ** 2)
    truth = {
        "flip": (0.5, 0.5),
        "brightness": (1.0, acting),
        "contrast": (1.0, acting),
        "saturation": (1.0, acting),
        "hue": (0.0, acting / 4),
        "grayscale": (0.2, 0.4),
        "solarize": (0.2, 0.4),
        "quarter_turns": (1.5, math.sqrt(1.25)),
        "blur_sigma": (0.525, blur),
    }
    for name, mean, std in zip(policy.fields, *policy.field_statistics, strict=True):
        if name in truth:
            assert abs(mean - truth[name][0]) < 0.06 * truth[name][1], name  # four standard errors of 4096 draws
            assert abs(std / truth[name][1] - 1) < 0.06, name


def test_given_statistics_are_taken_as_they_are():
    given_statistics = ((1.0, 2.0, 3.0, 4.0, 5.0), (6.0, 7.0, 8.0, 9.0, 10.0))
    mean, std = Policy((Crop(16), Flip()), MEAN, STD, given_statistics).field_statistics
    assert (tuple(mean.tolist()), tuple(std.tolist())) == given_statistics


def test_a_field_that_never_varies_has_no_deviation():
    policy = Policy((Crop(16), Blur(sigma=(0.3, 0.3), p=1.0)), MEAN, STD)
    assert policy.field_statistics[1][4] == 0


def test_statistics_are_the_same_every_time():
    found = []
    for _ in range(2):
        policy_module._drawn_statistics.cache_clear()
        found.append(torch.stack(every_operation().field_statistics))
    assert torch.equal(*found)


def test_equal_policies_share_one_draw_of_statistics():
    policy_module._drawn_statistics.cache_clear()
    for _ in range(2):
        _ = every_operation().field_statistics
    info = policy_module._drawn_statistics.cache_info()
    assert (info.misses, info.hits) == (1, 1)


@pytest.mark.parametrize("policy", [every_operation(), released.policy("stl10")], ids=["drawn", "given"])
def test_params_are_made_on_the_cpu_whatever_device_models_are_made_on(policy: Policy):
    fresh = dataclasses.replace(policy)  # without the statistics that are kept once computed
    with torch.device("meta"):
        made = (fresh.base(20, 30), fresh.draw(20, 30, generator(0)), *fresh.field_statistics)
    assert {tensor.device.type for tensor in made} == {"cpu"}


# --- to JSON and back


def altered(name: str) -> Augmentation:
    """An augmentation of which no number is the default."""

    def change(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(change(v) for v in value)
        return value + 2 if isinstance(value, int) else value / 2 if isinstance(value, float) else value

    made = make(name)
    return dataclasses.replace(made, **{f.name: change(getattr(made, f.name)) for f in dataclasses.fields(made)})


def through_json(policy: Policy) -> Policy:
    return Policy.from_dict(json.loads(json.dumps(policy.to_dict())))


@pytest.mark.parametrize("name", KNOWN)
def test_a_policy_comes_back_from_json(name: str):
    made = altered(name)
    policy = Policy((made,) if isinstance(made, Framing) else (Crop(20), made), MEAN, STD)
    back = through_json(policy)
    assert back == policy
    assert back.augmentations[-1] == made != make(name)
    assert torch.equal(back.draw(30, 40, generator(1)), policy.draw(30, 40, generator(1)))


def test_styles_units_and_statistics_come_back_from_json():
    policy = released.policy("stl10")
    assert through_json(policy) == policy
    assert json.loads(json.dumps(policy.to_dict()))["augmentations"][2]["style"] == "released"


CROP = {"name": "Crop", "size": 16}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"augmentations": [CROP, {"name": "Flop"}]}, "'Flop' not found; .*known: Crop, Spirograph, Flip"),
        ({"augmentations": [CROP, {"name": "Flip", "q": 1}]}, "Flip has no setting q; known: p"),
        ({"augmentations": [{"name": "Crop"}]}, "Crop lacks size; its settings are size, scale"),
        ({"augmentations": [{"size": 16}]}, "not a policy.*name"),
        ({"augmentations": 5}, "not a policy"),
        ({"augmentations": []}, "first augmentation of a policy must be Crop or Spirograph"),
        ({}, "not a policy.*augmentations"),
        (None, "not a policy"),
        ("Crop", "not a policy"),
    ],
)
def test_what_is_no_policy_is_refused(data: Any, message: str):
    full = {"mean": MEAN, "std": STD, **data} if isinstance(data, Mapping) and data else data
    with pytest.raises(ValueError, match=message):
        Policy.from_dict(full)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentations": (Flip(),)}, "first augmentation of a policy must be Crop or Spirograph"),
        ({"augmentations": (Crop(16), Spirograph(16))}, "must be first and nowhere else"),
        ({"augmentations": (Crop(16), Flip(), Flip())}, "must not repeat a field"),
        ({"augmentations": (Crop(16), Flip()), "statistics": ((0.0,) * 4, (1.0,) * 4)}, "must be 5 means and as many"),
        ({"augmentations": (Crop(16), Flip()), "statistics": ((0.0,) * 5, (1.0,) * 4)}, "must be 5 means and as many"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Policy(mean=MEAN, std=STD, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Crop, {"size": 0}, "crop size is 0"),
        (Crop, {"size": 16, "unit": "inch"}, "crop unit is 'inch'"),
        (Crop, {"size": 16, "scale": (0.0, 1.0)}, "crop scale"),
        (Crop, {"size": 16, "scale": (0.5, 0.2)}, "crop scale"),
        (Crop, {"size": 16, "scale": (0.5, 1.2)}, "crop scale"),
        (Crop, {"size": 16, "ratio": (0.0, 1.0)}, "crop ratio"),
        (Crop, {"size": 16, "ratio": (2.0, 1.0)}, "crop ratio"),
        (Blur, {"kernel": 4}, "positive and odd"),
        (Blur, {"kernel": -1}, "positive and odd"),
        (ColorJitter, {"style": "kodak"}, "known: released, torchvision"),
        (ColorJitter, {"hue": 0.6}, "between 0 and 0.5"),
        (ColorJitter, {"hue": -0.1}, "between 0 and 0.5"),
        (Grayscale, {"style": "kodak"}, "known: released, torchvision"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(kind: type[Augmentation], settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_an_included_augmentation_takes_the_place_of_its_type_or_the_end():
    policy = Policy((Crop(16), Flip(), Blur()), MEAN, STD)
    assert policy.including(Flip()) is policy
    assert policy.including(Flip(0.1)).augmentations == (Crop(16), Flip(0.1), Blur())
    assert policy.including(QuarterTurn()).augmentations == (Crop(16), Flip(), Blur(), QuarterTurn())
    assert policy.including(QuarterTurn()).including(QuarterTurn()) == policy.including(QuarterTurn())


def test_given_statistics_do_not_survive_another_augmentation():
    policy = Policy((Crop(16), Flip()), MEAN, STD, ((0.0,) * 5, (1.0,) * 5))
    assert policy.including(Flip()).statistics == policy.statistics
    assert policy.including(Flip(0.1)).statistics is None
    assert len(policy.including(QuarterTurn()).field_statistics[0]) == 6


def test_many_images_are_what_each_is_alone():
    """They are taken a few at a time where they would not fit into a processor's cache."""
    policy = Policy((Crop(64), Flip(), ColorJitter(), Grayscale(), Blur(5)), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    images = photos(100, 64, 64)
    params = torch.stack([policy.draw(64, 64, generator(k)) for k in range(100)])
    alone = torch.cat([policy.apply(image[None], own[None]) for image, own in zip(images, params, strict=True)])
    assert torch.equal(policy.apply(images, params), alone)


def test_several_draws_are_drawn_one_by_one():
    policy, single, together = every_operation(), generator(3), generator(3)
    rows = [policy.draw(40, 30, single) for _ in range(4)]
    assert torch.equal(policy.draws(3, 40, 30, together), torch.stack(rows[:3]))
    assert torch.equal(policy.draw(40, 30, together), rows[3])


def test_a_policy_of_some_kinds_keeps_its_first_augmentation_and_their_order():
    policy = every_operation()
    some = policy.only(Blur, Flip)
    assert [type(a) for a in some.augmentations] == [Crop, Flip, Blur]
    assert policy.only(*map(type, policy.augmentations)) is policy
    given = dataclasses.replace(policy, statistics=((0.5,) * len(policy.fields),) * 2)
    assert given.only(Blur).statistics is None and policy.only().augmentations == policy.augmentations[:1]


def test_lists_make_the_same_policy_as_tuples():
    """Statistics are cached by policy, so that it must be hashable."""
    lists = Policy([Crop(32, scale=[0.2, 1.0]), Blur(3, levels=[0.0, 1.0])], [0.5] * 3, [0.2] * 3)
    tuples = Policy((Crop(32, scale=(0.2, 1.0)), Blur(3, levels=(0.0, 1.0))), (0.5,) * 3, (0.2,) * 3)
    assert lists == tuples and hash(lists) == hash(tuples)
    assert torch.equal(lists.field_statistics[0], tuples.field_statistics[0])


def test_images_of_other_channels_are_refused():
    policy = Policy((Crop(8),), MEAN, STD)
    params = policy.base(8, 8)[None]
    with pytest.raises(ValueError, match="images have 1 channels, but the policy's mean and std have 3"):
        policy.apply(torch.rand(1, 1, 8, 8), params)
