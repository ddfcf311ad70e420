"""The presets of policies: which augmentations act, with which parameters, and which views they leave as they are."""

import pytest
import torch

from star_zoo import Policy, released
from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip, Grayscale, Spirograph
from star_zoo.augmentations.presets import PRESETS, preset
from twins import MEAN, STD, draws, generator, photos

BEFORE = Policy((Crop(32), Flip(p=0.1)), MEAN, STD, ((0.0,) * 5, (1.0,) * 5))
SPATIAL = {"Crop", "Flip"}
APPEARANCE = {"ColorJitter", "Grayscale", "Blur"}


def named(name: str, size: int = 32) -> Policy:
    return preset(name, BEFORE.resized(size))


def test_default_is_the_augmentation_of_moco_v2():
    assert named("default", 224).augmentations == (
        Crop(224, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)),
        Flip(p=0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        Grayscale(p=0.2),
        Blur(kernel=23, sigma=(0.1, 2.0), p=0.5),
    )


def test_ventral_and_dorsal_share_out_the_augmentations_of_default():
    kinds = {name: {type(a).__name__ for a in named(name).augmentations} for name in PRESETS}
    assert kinds == {"default": SPATIAL | APPEARANCE, "ventral": SPATIAL, "dorsal": {"Crop"} | APPEARANCE}
    everything = named("default").augmentations
    assert named("ventral").augmentations == everything[:2] and named("dorsal").augmentations[1:] == everything[2:]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("size", "kernel"), [(16, 1), (32, 3), (96, 9), (224, 23)])
def test_size_and_pixels_are_those_of_the_policy_before(name: str, size: int, kernel: int):
    made = named(name, size)
    assert (made.size, made.mean, made.std, made.statistics) == (size, MEAN, STD, None)
    assert Policy.from_dict(made.to_dict()) == made
    assert [a.kernel for a in made.augmentations if isinstance(a, Blur)] in ([], [kernel])
    assert made.apply(photos(2, size, size), draws(made, 2)).isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 64), (200, 90)])
def test_dorsal_always_sees_the_centred_square_and_ventral_never_changes_a_colour(height: int, width: int):
    image, g = photos(1, height, width)[0], generator(0)
    dorsal, ventral = named("dorsal"), named("ventral")
    for _ in range(20):
        row = dorsal.draw(height, width, g)
        assert torch.equal(dorsal.crop(image, row), dorsal.crop(image, dorsal.base(height, width)))
    flat = image[:, :1, :1].expand(-1, height, width).contiguous()
    rows = torch.stack([ventral.draw(height, width, g) for _ in range(20)])
    views = ventral.apply(torch.stack([ventral.crop(flat, row) for row in rows]), rows)
    assert torch.equal(views, views[:1, :, :1, :1].expand_as(views))
    assert rows.std(0).min() > 0


def test_params_are_fractions_also_where_the_policy_before_had_pixels():
    made = preset("ventral", released.policy("stl10"))
    assert (made.augmentations[0].unit, made.size) == ("fraction", 96)


def test_what_is_no_preset_is_refused():
    with pytest.raises(ValueError, match="'dorsul' not found; did you mean 'dorsal'. known: default, ventral, dorsal"):
        preset("dorsul", BEFORE)
    rendered = Policy((Spirograph(32),), MEAN, STD)
    with pytest.raises(ValueError, match="'dorsal' crops images, but this policy makes its views by Spirograph"):
        preset("dorsal", rendered)
