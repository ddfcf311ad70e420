"""scikit-learn's 8 x 8 digits, enlarged: images that need no download and have an upright pose. Letters: N images."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from star_zoo.groups import Group
from twins import generator


class Digits(NamedTuple):
    images: Tensor  # (N, 3, S, S) float32, mean 0 and standard deviation 1
    labels: Tensor  # (N,)


def digits(train: int, test: int, seed: int = 0, size: int = 32) -> tuple[Digits, Digits]:
    """So many training and test images, chosen by the seed."""
    found = load_digits()
    chosen = torch.randperm(len(found.target), generator=generator(seed))[: train + test]
    images = torch.from_numpy(found.images[chosen.numpy()]).float()[:, None]
    images = F.interpolate((images - images.mean()) / images.std(), (size, size), mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.from_numpy(found.target[chosen.numpy()])
    return Digits(images[:train].contiguous(), labels[:train]), Digits(images[train:].contiguous(), labels[train:])


def turned(images: Tensor, group: Group, seed: int = 0) -> Tensor:
    """Each image turned by an element drawn for it."""
    elements = torch.randint(group.order, (len(images),), generator=generator(seed))
    return torch.stack([group.act_on_images(x, int(g)) for x, g in zip(images, elements, strict=True)])
