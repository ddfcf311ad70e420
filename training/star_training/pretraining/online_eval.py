"""Online evaluation: a few metrics during training on a subset of the images, computed in seconds.

Letters: T tasks, E experts.
"""

import functools
from typing import Any

from torch import nn

from star_zoo import Objective, Policy

from ..data import Source
from ..data.intact import check_intact, intact
from ..data.sources.subset import spread
from ..evaluation.embeddings import embed
from ..evaluation.features import base_view, drawn_view, extract
from ..evaluation.protocols import knn, regression, routing
from ..evaluation.solvers.cca import correlations

_BANK, _QUERIES = 5000, 2000  # images: limits an online evaluation to a few seconds for a small backbone
_WATCHED = 2560  # images for `watch_heads`: ten per dimension of two embeddings of 128


class Monitor:
    """1-NN and 20-NN accuracy on base views for classes, R2 on drawn views for numbers, nothing without labels.

    `workers` is as in `extract`.
    """

    def __init__(self, policy: Policy, train: Source, test: Source | None, workers: int = 0):
        self.policy, self._workers = policy, workers
        self._train = spread(train, _BANK)
        self._test = None if test is None else spread(test, _QUERIES)

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """Returns the metrics by name; {} without held-out labels, or if all training labels are of one class.

        The backbone runs in eval mode, in float32.
        """
        if self._images is None:
            return {}
        train, test = self._images
        assert train.targets is not None and test.targets is not None
        numbers = train.targets.is_floating_point()
        if not numbers and len(train.targets.unique()) < 2:
            return {}  # all neighbours would be correct
        preprocess = drawn_view(self.policy, seed=0) if numbers else base_view(self.policy)
        bank, queries = (extract(backbone, source, preprocess, workers=self._workers) for source in (train, test))
        check_intact(train)
        check_intact(test)
        if numbers:
            return {"r2": float(regression.r2(bank, train.targets, queries, test.targets).mean())}
        return {
            f"knn{k}": float(knn.hits(bank, train.targets, queries, test.targets, k).float().mean())
            for k in (1, 20)
            if k <= len(bank)
        }

    @functools.cached_property
    def _images(self) -> tuple[Source, Source] | None:
        """Returns the bank and the query images, without those that don't decode; None without labels."""
        if self._test is None or self._train.targets is None or self._test.targets is None:
            return None
        return intact(self._train), intact(self._test)


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
