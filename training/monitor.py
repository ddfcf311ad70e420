"""What becomes of a model while it is trained: a few numbers from some of its images, in seconds.

Letters: T tasks, E experts.
"""

from torch import Tensor, nn

from star_zoo import Objective, Policy
from star_zoo.heads import StarHeads

from .data import Source
from .data.subset import spread
from .evals import knn, regression
from .features import base_view, drawn_view, evaluating, extract

_BANK, _QUERIES = 5000, 2000  # images: keeps an online evaluation to a few seconds for a small backbone
_ROUTED = 512  # images over which router weights are averaged


class Monitor:
    """1-NN and 20-NN accuracy for classes, of base views; R2 for numbers, of drawn views; nothing without labels."""

    def __init__(self, policy: Policy, train: Source, test: Source | None):
        self.policy = policy
        self.train = spread(train, _BANK)
        self.test = None if test is None else spread(test, _QUERIES)

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """The metrics by name; {} where there are no held-out labels. The backbone runs in eval mode, in float32."""
        if self.test is None or self.train.targets is None or self.test.targets is None:
            return {}
        numbers = self.train.targets.is_floating_point()
        preprocess = drawn_view(self.policy, seed=0) if numbers else base_view(self.policy)
        bank, queries = (extract(backbone, source, preprocess) for source in (self.train, self.test))
        if numbers:
            return {"r2": float(regression.r2(bank, self.train.targets, queries, self.test.targets).mean())}
        return {
            f"knn{k}": float(knn.hits(bank, self.train.targets, queries, self.test.targets, k).float().mean())
            for k in (1, 20)
            if k <= len(bank)
        }


def router_weights(backbone: nn.Module, objective: Objective, source: Source) -> Tensor | None:
    """How an objective's router shares the experts on average over base views: (T, E); None if it has no router."""
    if not isinstance(objective.heads, StarHeads):
        return None
    features = extract(backbone, spread(source, _ROUTED), base_view(objective.policy))
    with evaluating(objective):
        device = next(objective.parameters()).device
        return objective.heads.router(features.to(device)).float().mean(0).cpu()
