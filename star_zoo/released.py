"""The authors' released setting: their augmentation policy with its constants.

Source: the released code (transforms.py, trainers.py): crop boxes in source pixels, kornia 0.4.1's colour operations,
and hard-coded mean and deviation of each parameter on their two data sets.
"""

from .augmentations import Blur, ColorJitter, Crop, Flip, Grayscale, Policy

_STL10 = (
    (13.0968, 13.1474, 69.8042, 69.7284, 0.4986, 1.0016941, 0.99847072, 0.99962264, -9.0546833e-05, 0.2066, 0.53592795),
    (
        11.503563, 11.360162, 14.589053, 14.54193, 0.49999804,
        0.20763062, 0.20504521, 0.20646675, 0.05180895, 0.40486595, 0.65823567,
    ),
)  # fmt: skip
_IMAGENET100 = (
    (
        55.96519, 85.8532, 292.3404, 298.526, 0.50069067,
        1.0005505, 1.0010018, 1.0004101, 1.1400196e-4, 0.20029363, 0.5294427,
    ),
    (
        65.29286, 87.91453, 133.99657, 141.05266, 0.49999952,
        0.20643362, 0.20659508, 0.20603292, 0.05166076, 0.40022006, 0.65506816,
    ),
)  # fmt: skip


def policy(dataset: str) -> Policy:
    """The authors' policy for "stl10" (96 px) or "imagenet100" (224 px), in pixels of the source image."""
    if dataset == "stl10":
        return _policy(96, 9, (0.43, 0.42, 0.39), (0.27, 0.26, 0.27), _STL10)
    if dataset == "imagenet100":
        return _policy(224, 23, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), _IMAGENET100)
    raise ValueError(f"no released policy for {dataset!r}; known: stl10, imagenet100")


def _policy(size: int, blur: int, mean: tuple, std: tuple, statistics: tuple) -> Policy:
    jitter, grey = ColorJitter(style="released"), Grayscale(style="released")
    return Policy((Crop(size, unit="pixel"), Flip(), jitter, grey, Blur(blur)), mean, std, statistics)
