"""k nearest neighbours by cosine. Letters: N bank, M queries, D features, C classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.eval_sets.dataset import Splits
from ..features import as_classes
from ..frozen_model import FrozenModel
from ..metrics import ACCURACY, SHARE, Hits, Measurement, Metric, by_slug, share

_KS = (1, 20)
_TEMPERATURE = 0.07
CLASSIFIES_IMAGES = IN_ALL = True
_CHUNK = 1024  # queries at once: bounds the (M, N) similarities
_VOTES = 2**26  # votes (M, C) at once, 256 MB


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns the accuracy of 1-NN and of weighted 20-NN on test images, with training images as the bank."""
    bank, queries = as_classes(splits.name, model.labelled(splits.train), model.labelled(splits.test))
    ks = [k for k in _KS if k <= len(bank.features)]
    similarity, nearest = neighbours(bank.features, queries.features, max(ks))
    found = {k: _vote(similarity[:, :k], bank.targets[nearest[:, :k]]) == queries.targets for k in ks}
    return Measurement(
        by_slug(_metric(k, right) for k, right in found.items()),
        {"k": ks, "temperature": _TEMPERATURE, "similarity": "cosine"},
        hits={_slug(k): Hits(right, torch.ones(len(right))) for k, right in found.items()},
    )


def _slug(k: int) -> str:
    return f"knn{k}_top1"


def _metric(k: int, right: Tensor) -> Metric:
    average = f"knn{k}_accuracy", f"{k}-NN accuracy"
    return Metric(_slug(k), f"{k}-NN top-1", SHARE, ACCURACY, *share(right), averaged_as=average)


def hits(
    bank: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, k: int, temperature: float = _TEMPERATURE
) -> Tensor:
    """Returns which queries are classified correctly by k neighbours voting exp(cosine / temperature): (M,) bool.

    bank (N, D), labels (N,), queries (M, D), targets (M,); features are normalised here. k = 1 is the 1-NN of the
    released code; 20 and 0.07 are the usual setting since Wu et al. (CVPR 2018).
    """
    similarity, nearest = neighbours(bank, queries, k)
    return _vote(similarity, labels[nearest], temperature) == targets


def neighbours(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the cosines of the k nearest neighbours, nearest first, and their indices in the bank: (M, k) each.

    bank (N, D), queries (M, D). Raises ValueError unless 1 <= k <= N.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, but the bank has {len(bank)} images; pass a k from 1 to {len(bank)}")
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    found = [(part @ bank.T).topk(k, dim=1) for part in queries.split(_CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _vote(similarity: Tensor, labels: Tensor, temperature: float = _TEMPERATURE) -> Tensor:
    """Returns the class with the largest sum of exp(cosine / temperature) among neighbours: (M, k), (M, k) -> (M,)."""
    classes = int(labels.max()) + 1
    chunk = max(1, min(_CHUNK, _VOTES // classes))
    winners = []
    for near, label in zip((similarity / temperature).exp().split(chunk), labels.split(chunk), strict=True):
        winners.append(torch.zeros(len(near), classes).scatter_add_(1, label, near).argmax(1))
    return torch.cat(winners)
