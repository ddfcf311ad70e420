"""Spirographs as a data set of any size, which needs no download and has exactly known targets.

Each item is an object, four numbers as a (4, 1, 1) tensor that `star_zoo.augmentations.Spirograph` renders; its
targets are the same four numbers. Source: Foster et al., ICLR 2021, whose task is to regress them.
"""

import hashlib

import torch
from torch import Tensor

from star_zoo.augmentations.spirograph import OBJECT

from .base import Inventory


class Spirographs:
    """`count` objects of a split, drawn uniformly from their ranges; no two splits share an object."""

    classes = None
    bad = ()

    def __init__(self, count: int, split: str = "train"):
        self.name = f"spirograph:{count}"
        self.inventory = Inventory({split: count})
        self.fingerprint = hashlib.sha256(f"spirograph {count} {split}".encode()).hexdigest()[:16]
        seed = int.from_bytes(hashlib.sha256(split.encode()).digest()[:4], "big")
        low, high = torch.tensor(list(OBJECT.values())).T
        shares = torch.rand(count, len(OBJECT), generator=torch.Generator().manual_seed(seed))
        self.targets = low + (high - low) * shares

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Tensor:
        return self.targets[index][:, None, None]

    def describe(self, index: int) -> str:
        """Returns the name of an image, for messages."""
        return f"spirograph {index}"

    def check_bad(self) -> None:
        """Does nothing, because rendered images can't be damaged."""
