"""The policy that our own recipes share."""

from star_zoo import Policy
from star_zoo.augmentations import Augmentation, ColorJitter, Crop, Flip, Grayscale


def default_policy(size: int, pixels: dict[str, tuple[float, float, float]], *extra: Augmentation) -> Policy:
    """Returns our default policy: a crop by fractions of the image's area, torchvision's color operations."""
    return Policy((Crop(size), Flip(), ColorJitter(), Grayscale(), *extra), pixels["mean"], pixels["std"])
