"""Online evaluation: a few metrics during training on a subset of the images, computed in seconds.

Letters: N bank images, M held-out images, D features, K numbers, T tasks, E experts.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from star_zoo import Objective, Policy

from ..data import Source
from ..data.intact import check_intact, intact
from ..data.sources.subset import spread
from ..evaluation.embeddings import embed
from ..evaluation.features import base_view, drawn_view, extract
from ..evaluation.protocols import knn, regression, routing
from ..evaluation.solvers import ridge
from ..evaluation.solvers.effective_rank import rank_me
from ..evaluation.solvers.similarity import correlations

_KS = (1, 20)
_BANK, _QUERIES = 5000, 2000  # images: limits an online evaluation to a few seconds for a small backbone
_WATCHED = 2560  # images for `watch_heads`: ten per dimension of two embeddings of 128
# of features (N, D), their labels (N,) or (N, K), held-out features (M, D) and labels (M,) or (M, K)
_Measure = Callable[[Tensor, Tensor, Tensor, Tensor], float]


class Monitor:
    """Measures frozen features: a bank of training images, and held-out images if both have labels.

    knn1_top1, knn20_top1, linear_top1: accuracy of nearest neighbours and of a linear classifier, on base views
    r2: of numbers instead of classes, on drawn views
    rankme: RankMe of the bank, also without labels

    `workers` is as in `extract`.
    """

    def __init__(self, policy: Policy, train: Source, test: Source | None, workers: int = 0):
        self._workers, bank = workers, spread(train, _BANK)
        self._view = functools.partial(base_view, policy)
        self._measures: dict[str, _Measure] = {}  # by name
        self._sources = [bank]
        if test is None or test.targets is None or bank.targets is None:
            return
        if bank.targets.is_floating_point():
            self._view = functools.partial(drawn_view, policy, seed=0)
            self._measures = {"r2": _r2}
        elif len(bank.targets.unique()) > 1:  # otherwise all neighbours would be correct
            self._measures = {f"knn{k}_top1": functools.partial(_knn, k) for k in _KS if k <= len(bank)}
            self._measures["linear_top1"] = _linear
        if self._measures:
            self._sources.append(spread(test, _QUERIES))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the metrics, known before anything is measured."""
        return (*self._measures, "rankme")

    @property
    def images(self) -> dict[str, int]:
        """The numbers of images that decode: "train" of the bank, "test" of those that it measures on, if any."""
        return dict(zip(("train", "test"), map(len, self._intact), strict=False))

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """Returns the metrics by name. The backbone runs in eval mode, in float32; nothing is random."""
        preprocess, labelled = self._view(), list[Any]()
        for source in self._intact:
            labelled += [extract(backbone, source, preprocess, workers=self._workers), source.targets]
            check_intact(source)
        found = {name: measure(*labelled) for name, measure in self._measures.items()}
        return found | {"rankme": float(rank_me(labelled[0])) if labelled[0].any() else 0.0}

    @functools.cached_property
    def _intact(self) -> list[Source]:
        """The images without those that don't decode."""
        return [intact(source) for source in self._sources]


def _knn(k: int, bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> float:
    k = min(k, len(bank))  # fewer if images of a small bank don't decode
    return float(knn.hits(bank, labels, queries, truth, k).float().mean())


def _linear(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> float:
    """Returns the accuracy of ridge regression of one-hot labels, each class at the strength that `ridge` chooses.

    It is in closed form, so that a resumed run needs no state and a thousand classes cost as much as ten. Logistic
    regression takes up to a minute for a hundred classes.
    """
    classes = int(max(labels.max(), truth.max())) + 1
    fitted = ridge.fit(bank, F.one_hot(labels, classes))
    return float((fitted(queries).argmax(1) == truth).float().mean())


def _r2(bank: Tensor, targets: Tensor, queries: Tensor, truth: Tensor) -> float:
    return float(regression.r2(bank, targets, queries, truth).mean())


def watch_heads(backbone: nn.Module, objective: Objective, source: Source, workers: int = 0) -> dict[str, Any]:
    """Returns a few numbers about the heads, on base views in eval mode; {} for an objective without routing.

    "router": each task's mean shares of the experts (T, E); "entropy": mean entropy of an image's shares for each task,
    in nats; "norm": mean length of each embedding; "canonical": mean canonical correlation of z_inv and z_eq, if there
    are ten images per dimension.
    """
    features = extract(backbone, spread(source, _WATCHED), base_view(objective.policy), workers=workers)
    routed = routing.routed(objective, features)
    if routed is None:
        return {}
    shares, embeddings = routed[0], embed(objective, features)
    found: dict[str, Any] = {
        "router": shares.mean(0).tolist(),
        "entropy": routing.entropy(shares).mean(0).tolist(),
        "norm": [float(z.norm(dim=1).mean()) for z in embeddings.values()],
    }
    pair = [embeddings[name] for name in ("z_inv", "z_eq") if name in embeddings]
    if len(pair) == 2 and len(features) >= 10 * sum(z.shape[1] for z in pair):
        found["canonical"] = float(correlations(pair[0], pair[1]).mean())
    return found
