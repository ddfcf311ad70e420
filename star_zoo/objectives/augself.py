"""AugSelf (Lee et al., NeurIPS 2021): SimCLR, and heads that predict how each augmentation of two views differs.

Letters: B images, D features, A numbers that describe one augmentation of a view, P augmentation parameters.
Source: arXiv 2111.09613 and its released code: targets, losses and heads. Ours: the tasks of vertical flips, grayscale
and inversion, which follow the flip's, and of spirographs, which follows the colour jitter's. The projection head is
that of `simclr`, so that the added terms are the only difference.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_catalog.names import not_found

from ..augmentations import Augmentation, ColorJitter, Crop, Policy, Spirograph
from ..augmentations.base import constants
from ..augmentations.spirograph import SEEN
from ..batch import Batch
from ..encoder import Encoder
from ..heads import mlp
from . import _papers
from .simclr import SimCLR


def shift(output: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Returns the mean squared error of tanh(output) to first - second, (B, A) each."""
    return F.mse_loss(output.tanh(), first - second)


def same(output: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Returns the binary cross entropy of logits (B, 1) to whether first and second are equal."""
    return F.binary_cross_entropy_with_logits(output, (first == second).float())


def turn(output: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Returns the cross entropy of logits (B, 4) to (first - second) modulo four quarter turns."""
    return F.cross_entropy(output, ((first - second).round().long() % 4)[:, 0])


Task = Callable[[Tensor, Tensor, Tensor], Tensor]  # a head's output, both views' descriptions -> scalar
TASKS: dict[str, Task] = {
    "Crop": shift,
    "Spirograph": shift,
    "ColorJitter": shift,
    "Solarize": shift,
    "Blur": shift,
    "Flip": same,
    "VerticalFlip": same,
    "Grayscale": same,
    "Invert": same,
    "QuarterTurn": turn,
}
_DEFAULT = ("Crop", "ColorJitter", "Spirograph")  # the first two are the published choice for STL-10


class AugSelf(SimCLR):
    """The two views and the term of `simclr`, plus a head for each chosen augmentation, on the features of both views.

    `weights` maps names of augmentations to the weights of their terms; see `TASKS`. Both orders of the views count.
    Raises ValueError for an augmentation without a task or one that is not in the policy.
    """

    papers = (_papers.AUGSELF, _papers.SIMCLR)
    tags = (_papers.SELF_SUPERVISED, _papers.EQUIVARIANCE)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        weights: dict[str, float] | None = None,  # by augmentation; None: 1 for crop and jitter, or spirographs
        predictor_hidden: int = 512,  # width of the hidden layers of the heads
        **shared: Any,
    ):
        super().__init__(num_features, policy, **shared)
        self.augmentations = {type(a).__name__: a for a in policy.augmentations}
        usual = {name: 1.0 for name in _DEFAULT if name in self.augmentations}
        self.weights = usual if weights is None else weights
        usable = [name for name in self.augmentations if name in TASKS]
        for name in self.weights:
            if name not in usable:
                raise ValueError(not_found("augmentation of the policy with a task", name, usable))
        outputs = {name: 4 if TASKS[name] is turn else len(self.augmentations[name].fields) for name in self.weights}
        self.predictors = nn.ModuleDict(
            {name: mlp(2 * num_features, predictor_hidden, predictor_hidden, n) for name, n in outputs.items()}
        )

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        """Returns {"invariant": ...} and a term for each chosen augmentation, by its name."""
        features = encoder([encoder.augment(batch, view) for view in range(2)])
        pairs = torch.cat((torch.cat(features, 1), torch.cat(features[::-1], 1)))
        terms = self.terms(features, batch.params)
        for name, weight in self.weights.items():
            first, second = (self.described(name, params, batch.size) for params in batch.params)
            output = self.predictors[name](pairs).float()
            terms[name] = weight * TASKS[name](output, torch.cat((first, second)), torch.cat((second, first)))
        return terms

    def described(self, name: str, params: Tensor, size: Tensor) -> Tensor:
        """Returns the numbers that describe an augmentation of views: params (B, P), image sizes (B, 2) -> (B, A)."""
        fields, augmentation = self.policy.fields, self.augmentations[name]
        own = params[:, self.policy.columns[type(augmentation).__name__]]
        if isinstance(augmentation, Crop):
            fractions = own / size.repeat(1, 2) if augmentation.unit == "pixel" else own
            flips = (params[:, fields.index(n)] if n in fields else None for n in ("flip", "vertical_flip"))
            return box(fractions, *flips)
        return own if (scale := _scale(augmentation)) is None else _scaled(own, *scale)


def box(fractions: Tensor, flip: Tensor | None = None, vertical: Tensor | None = None) -> Tensor:
    """Returns centre y, centre x, height and width of crops (B, 4).

    Centre x is mirrored where `flip` (B,) is 1, centre y where `vertical` is.
    """
    top, left, height, width = fractions.unbind(1)
    return torch.stack((_mirrored(top + height / 2, vertical), _mirrored(left + width / 2, flip), height, width), 1)


def _mirrored(centre: Tensor, flip: Tensor | None) -> Tensor:
    return centre if flip is None else torch.where(flip > 0.5, 1 - centre, centre)


def _scale(augmentation: Augmentation) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns an offset and a unit of each param, or None for params that are not scaled."""
    if isinstance(augmentation, ColorJitter):
        ranges = augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue
        return augmentation.base(0, 0), tuple(r or 1.0 for r in ranges)
    if isinstance(augmentation, Spirograph):
        return tuple(low for low, _ in SEEN.values()), tuple(high - low for low, high in SEEN.values())
    return None


def _scaled(params: Tensor, offset: tuple[float, ...], unit: tuple[float, ...]) -> Tensor:
    return (params - constants(params, offset)) / constants(params, unit)
