"""The authors' policies against the constants of their code."""

import pytest
import torch

from star_zoo import released
from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip, Grayscale
from twins import draws

RELEASED = {
    "stl10": (
        [
            13.0968, 13.1474, 69.8042, 69.7284, 0.4986, 1.0016941, 0.99847072, 0.99962264, -9.0546833e-05, 0.2066,
            0.53592795,
        ],
        [
            11.503563, 11.360162, 14.589053, 14.54193, 0.49999804, 0.20763062, 0.20504521, 0.20646675, 0.05180895,
            0.40486595, 0.65823567,
        ],
    ),
    "imagenet100": (
        [
            55.96519, 85.8532, 292.3404, 298.526, 0.50069067, 1.0005505, 1.0010018, 1.0004101, 1.1400196e-4,
            0.20029363, 0.5294427,
        ],
        [
            65.29286, 87.91453, 133.99657, 141.05266, 0.49999952, 0.20643362, 0.20659508, 0.20603292, 0.05166076,
            0.40022006, 0.65506816,
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dataset", RELEASED)
def test_the_released_policies_have_the_authors_fields_and_constants(dataset: str):
    policy = released.policy(dataset)
    assert ",".join(policy.fields) == (
        "top,left,height,width,flip,brightness,contrast,saturation,hue,grayscale,blur_sigma"
    )
    for found, expected in zip(policy.field_statistics, RELEASED[dataset], strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.tensor(expected))


def test_the_released_policies_have_the_authors_operations():
    crop, flip, jitter, grey, blur = released.policy("stl10").augmentations
    assert crop == Crop(96, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), unit="pixel")
    assert flip == Flip(p=0.5)
    assert jitter == ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8, style="released")
    assert grey == Grayscale(p=0.2, style="released")
    assert blur == Blur(9, sigma=(0.1, 2.0), p=0.5)
    crop, *others, blur = released.policy("imagenet100").augmentations
    assert (crop, others, blur) == (Crop(224, unit="pixel"), [flip, jitter, grey], Blur(23))


def test_the_released_constants_are_near_what_the_policy_draws():
    policy = released.policy("stl10")
    mean, std = (torch.tensor(values) for values in RELEASED["stl10"])
    sample = draws(policy, 2000)
    assert ((sample.mean(0) - mean).abs() < 0.15 * std).all()
    assert ((sample.std(0) / std - 1).abs() < 0.15).all()


def test_an_unknown_released_policy_is_refused():
    with pytest.raises(ValueError, match="known: stl10, imagenet100"):
        released.policy("cifar10")
