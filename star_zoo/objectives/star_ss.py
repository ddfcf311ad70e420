"""STAR with a single shared expert (STAR-SS): one expert per task and one that both tasks share."""

from typing import Any

from ..augmentations import Policy
from ..heads import FixedRouter
from . import _papers
from ._routed import RoutedExperts


class StarSS(RoutedExperts):
    """STAR-SS: sums of three experts, z_inv = E_inv + E_shared and z_eq = E_eq + E_shared."""

    papers = (_papers.STAR,)

    def __init__(self, num_features: int, policy: Policy, **shared: Any):
        super().__init__(num_features, policy, FixedRouter([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), **shared)
