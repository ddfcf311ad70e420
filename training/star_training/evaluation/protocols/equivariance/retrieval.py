"""Retrieval of a view by its predicted embedding.

Letters: N images, V views of each, O embedding size, P augmentation parameters, Q queries, C candidates.
Source: SIE (Garrido et al., ICML 2023): MRR and H@k among the views of one image, PRE among all views.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_TIE = 1e-6  # difference of cosines up to which views are equal, because of float32's rounding
_CHUNK = 1024  # queries at once


class Ranks(NamedTuple):
    """Ranks of targets among their candidates; all orders of tied candidates are equally likely."""

    better: Tensor  # (N, V), candidates that are more similar
    level: Tensor  # (N, V), candidates that are equally similar, including the target

    def reciprocal(self) -> Tensor:
        """Returns the expected 1 / rank: (N, V) float64; without ties 1 / (better + 1)."""
        count = int((self.better + self.level).max())
        harmonic = torch.cat((torch.zeros(1, dtype=torch.float64), _inverses(count).cumsum(0)))
        return (harmonic[self.better + self.level] - harmonic[self.better]) / self.level

    def hits(self, k: int) -> Tensor:
        """Returns the probability that the target is among the first k: (N, V) float64."""
        return (k - self.better).clamp(min=0).minimum(self.level) / self.level.double()


def ranks(predicted: Tensor, views: Tensor) -> Ranks:
    """Returns each view's rank among the views of its image, by cosine to its prediction; inputs (N, V, O)."""
    predicted, views = (F.normalize(x.double(), dim=2) for x in (predicted, views))
    similarity = predicted @ views.transpose(1, 2)  # (N, V, V)
    above = similarity - similarity.diagonal(dim1=1, dim2=2)[..., None]
    return Ranks((above > _TIE).sum(2), (above.abs() <= _TIE).sum(2))


def chance(views: int) -> dict[str, float]:
    """Returns the metrics of a random order of `views` candidates: 0.0900, 0.02 and 0.1 for 50."""
    return {"MRR": float(_inverses(views).sum()) / views, "H@1": 1 / views, "H@5": min(1.0, 5 / views)}


def parameter_errors(predicted: Tensor, views: Tensor, params: Tensor) -> Tensor:
    """Returns squared differences between the params of each target and of its prediction's nearest view: (Q, P).

    predicted and views are (Q, O), params (Q, P) standardised; the nearest view is by cosine among all Q, the target
    included. The mean is SIE's PRE, with the squared distance of params in place of SIE's error between rotations.
    """
    predicted, views = F.normalize(predicted.float(), dim=1), F.normalize(views.float(), dim=1)
    nearest = torch.cat([(part @ views.T).argmax(1) for part in predicted.split(_CHUNK)])
    return (params - params[nearest]).square()


def _inverses(count: int) -> Tensor:
    return 1 / torch.arange(1, count + 1, dtype=torch.float64)
