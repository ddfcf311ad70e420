"""STAR with nothing to route: both tasks read the mean of all experts. What the routers are worth is measured by it."""

from ..augmentations import Policy
from ..heads import FixedRouter
from ._routed import RoutedExperts


class Uniform(RoutedExperts):
    """Experts as in `star` under a fixed router that weighs all alike, so that z_inv and z_eq are one embedding."""

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        num_experts: int = 16,
        temperature: float = 0.2,
        equivariant_weight: float = 1.0,
        hidden: int | None = None,  # width of the experts' hidden layers; None: the features' width
    ):
        router = FixedRouter([[1 / max(1, num_experts)] * num_experts] * 2)
        super().__init__(num_features, policy, router, num_experts, temperature, equivariant_weight, hidden)
