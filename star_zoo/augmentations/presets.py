"""Presets of policies that teach different invariances: `default`, `ventral` and `dorsal`.

Letters: S view size in pixels.

Source: Ericsson, Gouk & Hospedales (arXiv 2111.11398). Which augmentations act, how often, and the strengths of the
colour jitter are those of the authors' released code; the body of the paper could not be read. The areas of crops and
the standard deviations of the blur are those of MoCo v2, which the authors train. Ours are the kernel of the blur, a
tenth of the view as in SimCLR, and the order: the view is made first, also in `dorsal`, where the authors' code crops
after the colours.
"""

from collections.abc import Callable
from typing import Any

from star_catalog.names import not_found

from .base import Augmentation
from .blur import Blur
from .color import ColorJitter, Grayscale
from .crop import Crop
from .geometry import Flip
from .policy import Policy


def default(size: int) -> tuple[Augmentation, ...]:
    """Returns spatial and appearance augmentations, those of MoCo v2, for views of S pixels."""
    return *ventral(size), *_appearance(size)


def ventral(size: int) -> tuple[Augmentation, ...]:
    """Returns spatial augmentations alone: random crops and flips."""
    return Crop(size, scale=(0.2, 1.0)), Flip(p=0.5)


def dorsal(size: int) -> tuple[Augmentation, ...]:
    """Returns appearance augmentations alone: colour jitter, grayscale and blur of the largest centred square."""
    return Crop(size, scale=(1.0, 1.0), ratio=(1.0, 1.0)), *_appearance(size)


def _appearance(size: int) -> tuple[Augmentation, ...]:
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8)
    return jitter, Grayscale(p=0.2), Blur(kernel=2 * (size // 20) + 1, sigma=(0.1, 2.0), p=0.5)


PRESETS: dict[str, Callable[[int], tuple[Augmentation, ...]]] = {
    "default": default, "ventral": ventral, "dorsal": dorsal,
}  # fmt: skip


def preset(name: str, policy: Policy) -> Policy:
    """Returns the preset of that name with a policy's view size and its statistics of pixels.

    Raises ValueError for an unknown name, and for a policy that renders its views instead of cropping images.
    """
    if name not in PRESETS:
        raise ValueError(not_found("policy preset", name, PRESETS))
    first = policy.augmentations[0]
    if not isinstance(first, Crop):
        raise ValueError(
            f"the policy preset {name!r} crops images, but this policy makes its views by {type(first).__name__}; "
            "change its augmentations one by one"
        )
    return Policy(PRESETS[name](policy.size), policy.mean, policy.std)


def of_config(config: dict[str, Any]) -> Policy:
    """Returns our policy for models without one, at the size and pixel statistics of timm's data config."""
    augmentations = Crop(config["input_size"][-1]), Flip(), ColorJitter(), Grayscale()
    mean, std = (tuple(config[name]) for name in ("mean", "std"))
    if len(mean) == 3:
        return Policy(augmentations, mean, std)
    plain = tuple(part for a in augmentations if (part := a.without_color()) is not None)
    return Policy(plain, mean, std)
