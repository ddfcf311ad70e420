"""Linear evaluation as AugSelf and STAR do it. Letters: N images, D features, C classes.

Source: AugSelf's released protocol (arXiv 2111.09613): multinomial logistic regression on frozen, raw features, with
the sum of cross entropies plus w times the squared norm of weights and bias; w from 45 values chosen on a validation
split, then refitted on training and validation images together. Full-batch L-BFGS, warm-started along the path of w.
We stop each fit after 200 iterations, or where one no longer changes the objective; the original after 5000.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.splits import Splits
from ..features import Labelled
from ..metric import Measurement, share
from ..subject import Subject

STRENGTHS = torch.logspace(-6, 5, 45).tolist()
_ITERATIONS = 200
_TOLERANCE = 1e-9  # change of the objective per image; below what float32 tells for a large set
_VALIDATION = 0.1  # share of the training images to choose w on; the protocol's own for CIFAR


class Linear(NamedTuple):
    """What a linear evaluation found."""

    hits: Tensor  # which test images are classified right: (M,) bool
    strength: float  # the chosen w
    validation: float  # accuracy on the validation images with it


def run(subject: Subject, splits: Splits, seed: int = 0) -> Measurement:
    """Test accuracy; w is chosen on the validation split, or on a random tenth of `train` where there is none."""
    train, test = subject.labelled(splits.train), subject.labelled(splits.test)
    if splits.val is not None:
        val = subject.labelled(splits.val)
    else:
        order = torch.randperm(len(train.targets), generator=torch.Generator().manual_seed(seed))
        held = max(1, round(_VALIDATION * len(order)))
        val, train = (Labelled(train.features[part], train.targets[part]) for part in (order[:held], order[held:]))
    found = evaluate(train, val, test, int(max(train.targets.max(), test.targets.max())) + 1)
    return Measurement(
        {"Linear top-1": share(found.hits)}, {"w": found.strength}, {"validation top-1": found.validation}
    )


def evaluate(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int
) -> Linear:
    """Fits on `train`, chooses w on `val`, refits on both, measures on `test`; each is features (N, D), labels (N,)."""
    probe = nn.Linear(train[0].shape[1], num_classes)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    best, strength, kept = -1.0, STRENGTHS[0], {k: v.clone() for k, v in probe.state_dict().items()}
    for w in STRENGTHS:
        _fit(probe, *train, w)
        if (found := float(_hits(probe, *val).float().mean())) > best:  # a tie keeps the smaller w
            best, strength, kept = found, w, {k: v.clone() for k, v in probe.state_dict().items()}
    probe.load_state_dict(kept)
    _fit(probe, torch.cat((train[0], val[0])), torch.cat((train[1], val[1])), strength)
    return Linear(_hits(probe, *test), strength, best)


def _fit(probe: nn.Linear, features: Tensor, labels: Tensor, w: float) -> None:
    optimizer = torch.optim.LBFGS(
        probe.parameters(),
        max_iter=_ITERATIONS,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-10,
        tolerance_change=_TOLERANCE * len(labels),
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        norm = probe.weight.square().sum() + probe.bias.square().sum()
        loss = F.cross_entropy(probe(features), labels, reduction="sum") + w * norm
        loss.backward()
        return loss

    optimizer.step(objective)


@torch.no_grad()
def _hits(probe: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    return probe(features).argmax(1) == labels
