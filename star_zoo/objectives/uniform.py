"""STAR without routing: both tasks use the mean of all experts. The control experiment for the effect of routing."""

from typing import Any

from ..augmentations import Policy
from ..heads import FixedRouter
from . import _papers
from ._routed import RoutedExperts


class Uniform(RoutedExperts):
    """The experts of `star` with a fixed router of equal weights, so that z_inv and z_eq are the same embedding."""

    papers = (_papers.STAR,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        num_experts: int = 16,  # number of experts, as star's
        **shared: Any,
    ):
        router = FixedRouter([[1 / max(1, num_experts)] * num_experts] * 2)
        super().__init__(num_features, policy, router, **shared)
