"""k nearest neighbours by cosine. Letters: N bank, M queries, D features, C classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.eval_sets.dataset import Splits
from ..features import as_classes
from ..frozen_model import FrozenModel
from ..metrics import Hits, Measurement, share

_KS = (1, 20)
_TEMPERATURE = 0.07
_CHUNK = 1024  # queries at once: bounds the (M, N) similarities


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns the accuracy of 1-NN and of weighted 20-NN on test images, with training images as the bank."""
    bank, queries = as_classes(splits.name, model.labelled(splits.train), model.labelled(splits.test))
    ks = [k for k in _KS if k <= len(bank.features)]
    found = {f"{k}-NN top-1": hits(*bank, *queries, k) for k in ks}
    return Measurement(
        {name: share(right) for name, right in found.items()},
        {"k": ks, "temperature": _TEMPERATURE, "similarity": "cosine"},
        hits={name: Hits(right, torch.ones(len(right))) for name, right in found.items()},
    )


def hits(
    bank: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, k: int, temperature: float = _TEMPERATURE
) -> Tensor:
    """Returns which queries are classified correctly by k neighbours voting exp(cosine / temperature): (M,) bool.

    bank (N, D), labels (N,), queries (M, D), targets (M,); features are normalised here. k = 1 is the 1-NN of the
    released code; 20 and 0.07 are the usual setting since Wu et al. (CVPR 2018).
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, but the bank has {len(bank)} images; give a k from 1 to {len(bank)}")
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    found = []
    for part, truth in zip(queries.split(_CHUNK), targets.split(_CHUNK), strict=True):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[nearest], (similarity / temperature).exp())
        found.append(votes.argmax(1) == truth)
    return torch.cat(found)
