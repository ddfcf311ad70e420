"""The policy that our own recipes share."""

from star_zoo import Policy
from star_zoo.augmentations import Augmentation, ColorJitter, Crop, Flip, Grayscale


def default_policy(size: int, pixels: dict[str, tuple[float, float, float]], *extra: Augmentation) -> Policy:
    """Our default policy: the crop told in fractions, so that it serves images of any size; torchvision's colours."""
    return Policy((Crop(size), Flip(), ColorJitter(), Grayscale(), *extra), pixels["mean"], pixels["std"])
