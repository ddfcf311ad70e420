"""Linear evaluation with few labels. Letters: N training images, n of them with labels, C classes.

1 % and 10 % of each class's training images, at least one, keep their labels, as in Chen et al. (SimCLR, ICML 2020),
and train the linear protocol's classifier. Its w is chosen on all validation images of the data set; the classifier is
not refitted on them, because their labels would exceed the fraction. The metric is the mean over five draws, with the
interval over draws.
"""

import torch
from torch import Tensor

from ...data.eval_sets.dataset import Splits
from ..features import as_classes
from ..frozen_model import FrozenModel
from ..metrics import ACCURACY, SHARE, Measurement, Metric, by_slug, of_runs
from ..solvers.logistic import Logistic
from .linear import PER_CLASS, TOP1, Accuracy, choose, divide, hits

FRACTIONS = {"1 %": 0.01, "10 %": 0.1}
DRAWS = 5


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns test accuracy by fraction; `seed` draws the images, and validation images as in the linear protocol."""
    (train, val, rule), test = divide(model, splits, seed), model.labelled(splits.test)
    train, val, test = as_classes(splits.name, train, val, test)
    classes = len(train.targets.unique())
    accuracy = PER_CLASS if splits.per_class else TOP1
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {name: [] for name in FRACTIONS}
    strengths: dict[str, list[float]] = {name: [] for name in FRACTIONS}
    labels: dict[str, int] = {}
    for name, fraction in FRACTIONS.items():
        for _ in range(DRAWS):
            drawn = draw(train.targets, fraction, generator)
            labels[name] = len(drawn)
            problem = Logistic(train.features[drawn], train.targets[drawn], classes)
            chosen = choose(problem, val, accuracy)
            strengths[name].append(chosen.strength)
            found[name].append(accuracy.estimate(hits(chosen.fit, *test), test.targets).value)
    return Measurement(
        by_slug(_metric(accuracy, name, values) for name, values in found.items()),
        {"draws": DRAWS, "labels": labels, "validation": len(val.targets), "validation images": rule},
        {"by draw": found, "w by draw": strengths},
    )


def _metric(accuracy: Accuracy, fraction: str, values: list[float]) -> Metric:
    slug = f"linear_{accuracy.slug}_{100 * FRACTIONS[fraction]:g}pct"
    return Metric(slug, f"Linear {accuracy.name}, {fraction} of labels", SHARE, ACCURACY, *of_runs(values))


def draw(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Returns indices (n,) of a fraction of each class's images, rounded, at least one; labels are (N,)."""
    parts = []
    for label in labels.unique():
        of_class = (labels == label).nonzero()[:, 0]
        count = max(1, round(fraction * len(of_class)))
        parts.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    return torch.cat(parts)
