"""STAR with a single shared expert (STAR-SS): each task's own expert plus one that both share."""

from ..augmentations import Policy
from ..heads import FixedRouter
from ._routed import RoutedExperts


class StarSS(RoutedExperts):
    """STAR-SS: three experts with equal-weight sums, z_inv = E_inv + E_shared and z_eq = E_eq + E_shared."""

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,
        equivariant_weight: float = 1.0,
        hidden: int | None = None,  # width of the experts' hidden layers; None: the features' width
    ):
        router = FixedRouter([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        super().__init__(num_features, policy, router, 3, temperature, equivariant_weight, hidden)
