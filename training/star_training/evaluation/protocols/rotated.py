"""Accuracy on turned test images, of classifiers that are fitted on upright ones.

Letters: B images at once, M test images, S side of the model's input in pixels, T turns, D features.

The classifiers are those of the `knn` protocol with k = 20 and of the `linear` protocol. The model's input is turned,
after resizing and normalisation. The quarter turns of C4 only permute its pixels, so that a model with this symmetry is
equally accurate at all four; their mean is the group accuracy of equiadapt (Kaba et al., arXiv 2211.06489). The other
angles are ours: evenly spaced, bilinear, and within the inscribed disc, because corners would reveal the angle.
Outside the disc the input is 0, as is the padding of convolutions. The reference for these angles is the upright disc,
which interpolation doesn't blur.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from ...data import Source
from ...data.eval_sets.dataset import Splits
from ...data.sources.subset import spread
from ..features import Labelled, as_classes, check_classes
from ..frozen_model import FrozenModel
from ..metrics import ACCURACY, SHARE, Hits, Measurement, Metric, NotApplicable, by_slug
from . import knn
from .linear import PER_CLASS, TOP1, Accuracy, divide, evaluate

QUARTERS = (0, 90, 180, 270)  # degrees, counter-clockwise
ANGLES = tuple(range(15, 360, 30))  # degrees; the middle between two quarter turns is among them
CLASSIFIES_IMAGES = True
_TURNS = len(QUARTERS) + 1 + len(ANGLES)  # T: the quarter turns, the upright disc, the turned ones
_K = 20
_IMAGES = 2_000  # test images; each passes through the model T times


class Result(NamedTuple):
    """The hits of one classifier at every turn."""

    slug: str
    name: str
    accuracy: Accuracy
    hits: Tensor  # (T, M) bool
    targets: Tensor  # (M,) classes

    @property
    def quarters(self) -> Tensor:
        """The hits on whole images by quarter turn: (4, M)."""
        return self.hits[: len(QUARTERS)]

    @property
    def discs(self) -> Tensor:
        """The hits on discs, the upright one first, then by angle: (1 + angles, M)."""
        return self.hits[len(QUARTERS) :]

    def by_turn(self, hits: Tensor) -> list[float]:
        """Returns the accuracy at each turn: (turns, M) -> one number per turn."""
        return [self.accuracy.estimate(right, self.targets).value for right in hits]

    def metrics(self) -> Iterator[tuple[Metric, Hits]]:
        """Yields upright, mean and worst over the quarter turns; upright, mean and worst over the angles, on discs.

        An interval counts every image once. It is at most too wide for a mean, and does not correct for the choice of
        the worst turn.
        """
        upright, angles = self.discs[0], self.discs[1:]
        yield self._metric("upright", "upright", self.quarters[0])
        yield self._metric("c4_mean", "mean of the four quarter turns", self.quarters.double().mean(0))
        yield self._metric("c4_worst", "worst of the four quarter turns", self._worst(self.quarters))
        yield self._metric("upright_disc", "upright, the inscribed disc alone", upright)
        others = f"of {len(ANGLES)} angles between quarter turns, the disc alone"
        yield self._metric("angles_mean", f"mean {others}", angles.double().mean(0))
        yield self._metric("angles_worst", f"worst {others}", self._worst(angles))

    def _worst(self, hits: Tensor) -> Tensor:
        values = self.by_turn(hits)
        return hits[values.index(min(values))]

    def _metric(self, suffix: str, part: str, right: Tensor) -> tuple[Metric, Hits]:
        prefix = f"rotated_{self.slug}"
        metric = Metric(
            f"{prefix}_{self.accuracy.slug}_{suffix}",
            f"{self.name} {self.accuracy.name}, {part}",
            SHARE,
            ACCURACY,
            *self.accuracy.estimate(right, self.targets),
            averaged_as=(f"{prefix}_accuracy_{suffix}", f"{self.name} accuracy, {part}"),
        )
        return metric, Hits(right, self.accuracy.weights(self.targets))


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns accuracies of both classifiers; `seed` draws the validation images as in the linear protocol.

    A data set of fewer than 20 training images has no 20-NN accuracy.
    """
    bank, (train, val, rule) = model.labelled(splits.train), divide(model, splits, seed)
    check_classes(splits.name, bank.targets)  # before the test images pass through the model
    test = turned(model, splits.test)
    results = []
    if len(bank.targets) >= _K:
        known, queries = as_classes(splits.name, bank, test)
        results.append(_result(f"knn{_K}", f"{_K}-NN", TOP1, knn.hits(*known, *queries, _K), queries))
    train, val, test = as_classes(splits.name, train, val, test)
    accuracy = PER_CLASS if splits.per_class else TOP1
    hits, chosen = evaluate(train, val, test, len(train.targets.unique()), accuracy)
    results.append(_result("linear", "Linear", accuracy, hits, test))
    found = [pair for result in results for pair in result.metrics()]
    settings = {
        "images": len(test.targets) // _TURNS,
        "angles": {"C4": list(QUARTERS), "disc": list(ANGLES), "unit": "degrees, counter-clockwise"},
        "turned": "the model's input; angles bilinear within the inscribed disc, 0 outside",
        "interval": "over images; of the worst turn without correction for its choice",
        "k": _K, "w": chosen.strength, "validation": len(val.targets), "validation images": rule,
    }  # fmt: skip
    details = {
        "quarter turns": {result.name: result.by_turn(result.quarters) for result in results},
        "discs": {result.name: result.by_turn(result.discs) for result in results},
        "degrees": {"quarter turns": list(QUARTERS), "discs": [0, *ANGLES]},
    }
    return Measurement(
        by_slug(metric for metric, _ in found), settings, details, {metric.slug: hits for metric, hits in found}
    )


def _result(slug: str, name: str, accuracy: Accuracy, hits: Tensor, test: Labelled) -> Result:
    """Returns the result of hits (T * M,) on test images in the order of `turned`."""
    return Result(slug, name, accuracy, hits.view(_TURNS, -1), test.targets.view(_TURNS, -1)[0])


def turned(model: FrozenModel, source: Source) -> Labelled:
    """Returns features (T * M, D) and labels (T * M,) of the images at one turn after the other."""
    turning = FrozenModel(model.name, Turning(model.backbone), model.preprocess, workers=model.workers)
    features, targets = turning.labelled(spread(source, _IMAGES))
    by_turn = features.unflatten(1, (_TURNS, -1)).transpose(0, 1)
    return Labelled(by_turn.flatten(0, 1), targets.repeat(_TURNS))


class Turning(nn.Module):
    """A backbone on every turn of its input: (B, 3, S, S) -> (B, T * D)."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.backbone(each) for each in turns(images)], 1)


def turns(images: Tensor) -> Iterator[Tensor]:
    """Yields the T turns of square images: the quarter turns, the upright disc, the discs turned by each angle.

    (B, 3, S, S) float -> T of the same shape. Raises NotApplicable for images that aren't square.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise NotApplicable(f"the model's input is {height} x {width}; only square images can be turned by 90 degrees")
    for degrees in QUARTERS:
        yield images.rot90(degrees // 90, (-2, -1))
    inside = disc(height).to(images.device)
    yield images * inside
    for degrees in ANGLES:
        yield rotate(images, degrees, interpolation=InterpolationMode.BILINEAR) * inside


def disc(side: int) -> Tensor:
    """Returns whether each pixel is in the inscribed disc, (S, S) bool.

    The disc passes through the centres of the outermost pixels, so that turning it needs no values beyond the image.
    """
    squares = (torch.arange(side) - (side - 1) / 2).square()
    return squares + squares[:, None] <= ((side - 1) / 2) ** 2
