"""Linear evaluation as in AugSelf and STAR. Letters: N training images, M others, D features, C classes, R = D + 1.

Source: AugSelf's released protocol (arXiv 2111.09613): multinomial logistic regression on frozen, raw features, with
the sum of cross entropies plus w times the squared norm of weights and bias; w is chosen from 45 values on validation
images, then the model is refitted on training and validation images together. The metric is top-1, or the mean over
classes if that is the data set's convention. The problem is strictly convex. AugSelf approaches its only optimum by
L-BFGS from a random start; `star_training.evaluation.solvers.logistic` does so faster and to a known distance.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.eval_sets.dataset import Splits
from ..features import Labelled, as_classes
from ..frozen_model import FrozenModel
from ..metrics import ACCURACY, SHARE, Estimate, Hits, Measurement, Metric, TooFew, by_slug, class_mean, share
from ..solvers.logistic import Fit, Logistic, with_ones

STRENGTHS: tuple[float, ...] = tuple(torch.logspace(-6, 5, 45).tolist())
CLASSIFIES_IMAGES = IN_ALL = True
_KNOWN = 1e-3  # estimates of larger gaps relative to the objective may be many times too low
_COARSE = 1e-5  # gap relative to the objective of fits that might be chosen
_GAP, *_FINER = 1e-6, 1e-8, 1e-10  # of the chosen fit, and of all that might be chosen, in turn, while several might
_SURE = 10  # logits this many `Fit.spread`s apart don't change their order


class Accuracy(NamedTuple):
    """The convention by which a data set averages hits."""

    slug: str
    name: str
    weights: Callable[[Tensor], Tensor]  # targets (M,) -> weights of the images, relative to their sum
    estimate: Callable[[Tensor, Tensor], Estimate]  # hits (M,) bool and targets (M,) -> accuracy


TOP1 = Accuracy("top1", "top-1", lambda targets: torch.ones(len(targets)).double(), lambda hits, _: share(hits))
PER_CLASS = Accuracy(
    "per_class", "mean per class", lambda targets: 1 / targets.bincount()[targets].double(), class_mean
)


class Divided(NamedTuple):
    """Labelled features of a data set, and the rule by which its validation images were chosen."""

    train: Labelled
    val: Labelled
    rule: str


class Chosen(NamedTuple):
    """The strength with the highest validation accuracy; all dictionaries are by strength."""

    strength: float
    fits: dict[float, Fit]
    validation: dict[float, float]  # accuracy on the validation images
    highest: dict[float, float]  # the same if the gap, which may be large where this can't win, hid a better one

    @property
    def fit(self) -> Fit:
        """The fit at the chosen strength."""
        return self.fits[self.strength]

    def gaps(self) -> dict[float, float | None]:
        """Returns the estimated gap of each fit relative to its objective, None where it is too large to be known."""
        gaps = {w: fit.gap / fit.objective for w, fit in self.fits.items()}
        return {w: gap if gap <= _KNOWN else None for w, gap in gaps.items()}


class Linear(NamedTuple):
    """The result of a linear evaluation."""

    hits: Tensor  # which test images are classified correctly: (M,) bool
    chosen: Chosen


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns test accuracy; `seed` draws the validation images if the data set has none and no rule."""
    (train, val, rule), test = divide(model, splits, seed), model.labelled(splits.test)
    train, val, test = as_classes(splits.name, train, val, test)
    accuracy = PER_CLASS if splits.per_class else TOP1
    hits, chosen = evaluate(train, val, test, len(train.targets.unique()), accuracy)
    average = "linear_accuracy", "Linear accuracy"
    metric = Metric(
        f"linear_{accuracy.slug}",
        f"Linear {accuracy.name}",
        SHARE,
        ACCURACY,
        *accuracy.estimate(hits, test.targets),
        averaged_as=average,
    )
    return Measurement(
        by_slug([metric]),
        {
            "w": chosen.strength,
            "train": len(train.targets),
            "validation": len(val.targets),
            "validation images": rule,
            "gap": _GAP,
        },
        {
            f"validation {accuracy.name}": chosen.validation[chosen.strength],
            f"validation {accuracy.name} by w": [list(pair) for pair in chosen.validation.items()],
            f"highest validation {accuracy.name} within the gap, by w": [list(pair) for pair in chosen.highest.items()],
            "gap by w": [list(pair) for pair in chosen.gaps().items()],
        },
        {metric.slug: Hits(hits, accuracy.weights(test.targets))},
    )


def divide(model: FrozenModel, splits: Splits, seed: int) -> Divided:
    """Returns training and validation images: the data set's own, or training images held out by its rule."""
    train = model.labelled(splits.train)
    if splits.val is not None:
        return Divided(train, model.labelled(splits.val), "the data set's own")
    rule, count = splits.held_out(seed), len(train.targets)
    if count < 2:
        raise TooFew(f"{splits.name} has {count} training images; pass two or more, or a validation split")
    rest, held = rule.draw(count)
    rest_of, held_of = (Labelled(train.features[part], train.targets[part]) for part in (rest, held))
    return Divided(rest_of, held_of, f"{len(held)} of {count} training images at random, seed {rule.seed}")


def evaluate(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    accuracy: Accuracy = TOP1,
) -> Linear:
    """Fits on `train`, chooses w on `val`, refits on both, measures on `test`; each is features (N, D), labels (N,).

    Test images of a class without training images count as misses.
    """
    both = Logistic(torch.cat((train[0], val[0])), torch.cat((train[1], val[1])), classes)
    chosen = choose(both.first(len(train[1])), val, accuracy)
    return Linear(_settled(both, chosen, test), chosen)


class _Contest:
    """Fits by strength, and the bounds in which their gaps leave their validation accuracies."""

    def __init__(self, val: tuple[Tensor, Tensor], accuracy: Accuracy):
        self._inputs, self._labels, self._weights = with_ones(val[0]), val[1], accuracy.weights(val[1])
        self.fits: dict[float, Fit] = {}
        self._margins: dict[float, Tensor] = {}  # of the validation images, (M,)
        self._reached = 0.0  # by one of the fits, whatever its gap hides

    def enter(self, fit: Fit) -> None:
        """Adds or replaces a fit."""
        self.fits[fit.strength], self._margins[fit.strength] = fit, self._margins_of(fit)
        self._reached = max(self._reached, self.accuracy(fit.strength, -1))

    def losing(self, fit: Fit) -> float:
        """Returns the largest relative gap with which an unfinished fit can't win; zero if its accuracy wins now."""
        margins, order = self._margins_of(fit).sort(descending=True)
        needed = int((self._score(self._weights[order].cumsum(0)) < self._reached).sum())
        return fit.gap_for(max(0.0, -float(margins[needed])) / _SURE)

    def accuracy(self, w: float, luck: int = 0) -> float:
        """Returns the accuracy of a fit; the highest that its gap allows with luck 1, the lowest with luck -1."""
        shift = luck * (_SURE * self.fits[w].spread + 1e-30)
        return float(self._score((self._weights * (self._margins[w] > -shift)).sum()))

    def may_win(self) -> list[float]:
        """Returns the strengths that may have the highest accuracy, or the highest of equals with larger strengths."""
        low, high = ({w: self.accuracy(w, luck) for w in self.fits} for luck in (-1, 1))
        return [w for w in high if all(high[w] > low[v] or (w <= v and high[w] == low[v]) for v in low)]

    def _margins_of(self, fit: Fit) -> Tensor:
        return _margins(self._inputs @ fit.weights.T, self._labels)

    def _score(self, hit: Tensor) -> Tensor:
        return (hit / self._weights.sum()).round(decimals=12)  # rounding makes equal accuracies equal


def choose(problem: Logistic, val: tuple[Tensor, Tensor], accuracy: Accuracy = TOP1) -> Chosen:
    """Chooses the strength with the highest validation accuracy, the smallest of equals.

    Fits are refined while they could become the best if the logits of undecided images changed a little. Those of small
    strengths, which take longest, mostly can't.
    """
    contest = _Contest(val, accuracy)
    for fit in problem.path(STRENGTHS, _COARSE, contest.losing):
        contest.enter(fit)
    for gap in (_GAP, *_FINER):
        may_win = contest.may_win()
        for w in may_win if len(may_win) > 1 or gap == _GAP else ():
            if contest.fits[w].gap > gap * contest.fits[w].objective:
                contest.enter(problem.fit(w, contest.fits[w].weights, gap))
    validation, highest = ({w: contest.accuracy(w, luck) for w in STRENGTHS} for luck in (0, 1))
    best = max(STRENGTHS, key=lambda w: validation[w])  # the first of equals
    return Chosen(best, {w: contest.fits[w] for w in STRENGTHS}, validation, highest)


def _settled(problem: Logistic, chosen: Chosen, test: tuple[Tensor, Tensor]) -> Tensor:
    """Returns which test images the refit classifies correctly, refined until they are decided: (M,) bool."""
    inputs, w = with_ones(test[0]), chosen.strength
    # starts at the largest w: at small w the fit without the validation images is far off on them
    *_, fit = problem.path(STRENGTHS[STRENGTHS.index(w) :: 4], 0.01)
    for finer in (_GAP, *_FINER):
        fit = problem.fit(w, fit.weights, finer)
        logits = inputs @ fit.weights.T
        if bool((_margins(logits, test[1]).abs() > _SURE * fit.spread).all()):
            break
    return logits.argmax(1) == test[1]


def hits(fit: Fit, features: Tensor, labels: Tensor) -> Tensor:
    """Returns which images a fit classifies correctly: (M,) bool."""
    return (with_ones(features) @ fit.weights.T).argmax(1) == labels


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns each image's own logit minus its highest other one: logits (M, C), labels (M,) -> (M,)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
