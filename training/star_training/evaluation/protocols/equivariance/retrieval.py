"""Finding a view by the embedding that was predicted for it.

Letters: N images, V views of each, O embedding size, P augmentation parameters, Q queries, C candidates.
Source: SIE (Garrido et al., ICML 2023): MRR and H@k among the views of one image, PRE among all views.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_TIE = 1e-6  # of a cosine: what equal views differ by in float32
_CHUNK = 1024  # queries at once


class Ranks(NamedTuple):
    """Where each target stands among its candidates; all orders of those that tie with it are equally likely."""

    better: Tensor  # (N, V), candidates that are more similar
    level: Tensor  # (N, V), candidates equally similar, the target among them

    def reciprocal(self) -> Tensor:
        """The expected 1 / rank: (N, V) float64. Without ties 1 / (better + 1)."""
        count = int((self.better + self.level).max())
        harmonic = torch.cat((torch.zeros(1, dtype=torch.float64), _inverses(count).cumsum(0)))
        return (harmonic[self.better + self.level] - harmonic[self.better]) / self.level

    def hits(self, k: int) -> Tensor:
        """The probability that the target is among the first k: (N, V) float64."""
        return (k - self.better).clamp(min=0).minimum(self.level) / self.level.double()


def ranks(predicted: Tensor, views: Tensor) -> Ranks:
    """Each view's rank by cosine to its prediction among the views of the same image, each (N, V, O)."""
    predicted, views = (F.normalize(x.double(), dim=2) for x in (predicted, views))
    similarity = predicted @ views.transpose(1, 2)  # (N, V, V)
    above = similarity - similarity.diagonal(dim1=1, dim2=2)[..., None]
    return Ranks((above > _TIE).sum(2), (above.abs() <= _TIE).sum(2))


def chance(views: int) -> dict[str, float]:
    """What a random order of that many candidates gives: 0.0900, 0.02 and 0.1 of 50."""
    return {"MRR": float(_inverses(views).sum()) / views, "H@1": 1 / views, "H@5": min(1.0, 5 / views)}


def parameter_errors(predicted: Tensor, views: Tensor, params: Tensor) -> Tensor:
    """Squared differences between the params of each target and of its nearest neighbour: (Q, P).

    predicted and views (Q, O), params (Q, P) standardised; neighbours by cosine among all Q views, the target too.
    Their mean is SIE's PRE, with the squared distance of params in the place of its error between rotations.
    """
    predicted, views = F.normalize(predicted.float(), dim=1), F.normalize(views.float(), dim=1)
    nearest = torch.cat([(part @ views.T).argmax(1) for part in predicted.split(_CHUNK)])
    return (params - params[nearest]).square()


def _inverses(count: int) -> Tensor:
    return 1 / torch.arange(1, count + 1, dtype=torch.float64)
