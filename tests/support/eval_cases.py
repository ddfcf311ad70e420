"""Models and data sets with a known answer: features that are given instead of computed.

Letters: N images, D features.
"""

import pytest
import torch
from torch import Tensor, nn

from star_training.data import Source
from star_training.data.eval_sets.dataset import Splits
from star_training.data.eval_sets.transfer import SETS
from star_training.data.sources.base import NOT_TAKEN
from star_training.evaluation.features import Labelled, pixels
from star_training.evaluation.frozen_model import FrozenModel
from star_zoo import Objective
from twins import randn


class Given:
    """A data set of N images (3, 1, D) uint8 that nobody looks at, with labels and the features that a model gives."""

    classes = None
    bad = ()
    inventory = NOT_TAKEN

    def __init__(self, labelled: Labelled, name: str = "given"):
        self.name, self.features, self.targets = name, *labelled
        self.fingerprint = f"{hash((labelled.features.sum().item(), len(labelled.features))):x}"

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Tensor:
        return torch.zeros(3, 1, self.features.shape[1], dtype=torch.uint8)

    def describe(self, index: int) -> str:
        return f"image {index}"

    def check_bad(self) -> None:
        pass


class Oracle(FrozenModel):
    """A model whose features of `Given` images are the given ones."""

    def __init__(self, objective: Objective | None = None):
        super().__init__("oracle", nn.Flatten(), pixels(1), objective)

    def features(self, source: Source) -> Tensor:
        assert isinstance(source, Given)
        return source.features


def splits(train: Labelled, test: Labelled, val: Labelled | None = None) -> Splits:
    """A data set of given features."""
    made = Splits("given")
    made.__dict__ |= {
        "train": Given(train, "train"),
        "test": Given(test, "test"),
        "val": None if val is None else Given(val, "val"),
    }
    return made


def blobs(count: int, classes: int = 3, width: int = 5, spread: float = 0.7, seed: int = 0) -> Labelled:
    """Points around one centre a class."""
    labels = torch.arange(count) % classes
    centres = randn(classes, width, seed=99) * 2
    return Labelled(centres[labels] + spread * randn(count, width, seed=seed) * 2, labels)


def small(monkeypatch: pytest.MonkeyPatch, name: str, train: int, val: int) -> None:
    """Has a set's split be of so many images."""
    row = SETS[name]
    assert row.conventions.held_out is not None
    rule = row.conventions.held_out._replace(train=train, val=val)
    monkeypatch.setitem(SETS, name, row._replace(conventions=row.conventions._replace(held_out=rule)))
