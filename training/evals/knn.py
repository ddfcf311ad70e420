"""k nearest neighbours by cosine. Letters: N bank, M queries, D features, C classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import Labelled

_KS = (1, 20)
_CHUNK = 1024  # queries at once: bounds the (M, N) similarities


def run(train: Labelled, test: Labelled, seed: int = 0) -> dict[str, float]:
    """Accuracy of 1-NN and of weighted 20-NN on `test`, with `train` as the bank; nothing is random."""
    ks = [k for k in _KS if k <= len(train.features)]
    return {f"knn{k}": accuracy(train.features, train.targets, test.features, test.targets, k) for k in ks}


def accuracy(
    bank: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Share of queries whose class wins among their k nearest, each voting exp(cosine / temperature).

    bank (N, D), labels (N,), queries (M, D), targets (M,); features are normalised here. k = 1 is the 1-NN of the
    released code; 20 and 0.07 are the usual setting since Wu et al. (CVPR 2018).
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, but the bank has {len(bank)} images; give k between 1 and that")
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    hits = 0
    for part, truth in zip(queries.split(_CHUNK), targets.split(_CHUNK), strict=True):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[nearest], (similarity / temperature).exp())
        hits += int((votes.argmax(1) == truth).sum())
    return hits / len(targets)
