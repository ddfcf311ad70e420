"""Agreements: how an objective makes two embeddings of an image equal without collapse, one for each base method.

Letters: N pairs of embeddings, O embedding size, K rows of a queue, H hidden width.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from star_catalog.names import not_found

from ..heads import mlp
from ..losses import barlow_twins, info_nce, negative_cosine, nt_xent, vicreg
from ..momentum import Queue, cosine_momentum


class Agreement(nn.Module):
    """A loss of embeddings and their targets; `toward` is one direction, `between` the mean of both.

    `momentum` is the initial momentum of the copy of encoder and heads that computes the targets. Without it, the
    targets are the trained embeddings themselves, and the agreement stops their gradient where its method does.
    """

    def __init__(self, momentum: float | None = None):
        super().__init__()
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum}; it must be between 0 and 1, e.g. 0.99")
        self.momentum = momentum

    def toward(self, x: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of embeddings with their targets: (N, O), (N, O) -> scalar."""
        raise NotImplementedError

    def between(self, a: Tensor, b: Tensor, target_a: Tensor, target_b: Tensor) -> Tensor:
        """Returns the loss of two views' embeddings, each with the other's target: four times (N, O) -> scalar."""
        return (self.toward(a, target_b) + self.toward(b, target_a)) / 2

    def momentum_at(self, progress: float) -> float:
        """Returns the momentum at `progress` in [0, 1]: a half cosine from `momentum` to 1."""
        assert self.momentum is not None
        return cosine_momentum(self.momentum, progress)


class Mutual(Agreement):
    """A symmetric loss with a gradient to both sides: SimCLR, Barlow Twins, VICReg."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.loss = loss

    def toward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.loss(target, x)

    def between(self, a: Tensor, b: Tensor, target_a: Tensor, target_b: Tensor) -> Tensor:
        return self.loss(a, b)


class PredictedCosine(Agreement):
    """Negative cosine of a prediction and the target, whose gradient is stopped: SimSiam; with momentum, BYOL.

    SimSiam's loss is exactly this. BYOL's is 4 + 4 times this (squared distances, summed over both directions).
    """

    def __init__(self, embed_dim: int, hidden: int, momentum: float | None = None):
        super().__init__(momentum)
        self.predictor = mlp(embed_dim, hidden, embed_dim)

    def toward(self, x: Tensor, target: Tensor) -> Tensor:
        return negative_cosine(self.predictor(x), target.detach())


class QueuedContrast(Agreement):
    """InfoNCE with the momentum copy's earlier embeddings as negatives, in a queue of K rows: MoCo v2.

    Embeddings of the same step are never negatives. The momentum is constant.
    """

    def __init__(self, embed_dim: int, temperature: float, queue_size: int, momentum: float):
        super().__init__(momentum)
        self.temperature = temperature
        self.queue = Queue(queue_size, embed_dim)

    def toward(self, x: Tensor, target: Tensor) -> Tensor:
        loss = self._contrast(x, target)
        self._push(target)
        return loss

    def between(self, a: Tensor, b: Tensor, target_a: Tensor, target_b: Tensor) -> Tensor:
        loss = (self._contrast(a, target_b) + self._contrast(b, target_a)) / 2
        self._push(torch.cat((target_a, target_b)))
        return loss

    def _contrast(self, x: Tensor, target: Tensor) -> Tensor:
        negatives = self.queue.rows.clone()  # the backward pass needs them after the push
        return info_nce(x, target.detach(), self.temperature, negatives)

    def _push(self, target: Tensor) -> None:
        if self.training:
            self.queue.push(target)

    def momentum_at(self, progress: float) -> float:
        assert self.momentum is not None
        return self.momentum


class PredictedContrast(Agreement):
    """InfoNCE of a prediction with the momentum copy's embeddings of the same batch: MoCo v3.

    Times twice the temperature, as in the paper, which sums the two directions; here they are averaged.
    """

    def __init__(self, embed_dim: int, hidden: int, temperature: float, momentum: float):
        super().__init__(momentum)
        self.temperature = temperature
        self.predictor = mlp(embed_dim, hidden, embed_dim, norm=True)

    def toward(self, x: Tensor, target: Tensor) -> Tensor:
        return 2 * self.temperature * info_nce(self.predictor(x), target.detach(), self.temperature)


# By name, given O and the temperature, for `agree=`. A predictor's H is in its paper's ratio to O; momentum and K are
# those of the plain objectives' defaults.
AGREEMENTS: dict[str, Callable[[int, float], Agreement]] = {
    "nt_xent": lambda embed_dim, temperature: Mutual(functools.partial(nt_xent, temperature=temperature)),
    "negative_cosine": lambda embed_dim, _: PredictedCosine(embed_dim, max(1, embed_dim // 4)),
    "byol": lambda embed_dim, _: PredictedCosine(embed_dim, 16 * embed_dim, momentum=0.996),
    "moco": lambda embed_dim, temperature: QueuedContrast(embed_dim, temperature, queue_size=4096, momentum=0.999),
    "moco_v3": lambda embed_dim, temperature: PredictedContrast(embed_dim, 16 * embed_dim, temperature, momentum=0.99),
    "barlow_twins": lambda embed_dim, _: Mutual(barlow_twins),
    "vicreg": lambda embed_dim, _: Mutual(vicreg),
}


def agreement(name: str, embed_dim: int, temperature: float) -> Agreement:
    """Returns a new agreement of `AGREEMENTS` by name. Raises ValueError for an unknown name."""
    if name not in AGREEMENTS:
        raise ValueError(not_found("agreement", name, AGREEMENTS))
    return AGREEMENTS[name](embed_dim, temperature)
