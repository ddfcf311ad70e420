"""EquiMod (Devillers & Lefort, ICLR 2023) in STAR's frame: a head of its own for each task.

Same heads, shift predictor and losses as `star`, so that the routing is the only difference. The original's predictor
is one linear layer without the residual, and its parameters tell the jitter's order too: its numbers are not these.
"""

from ..augmentations import Policy
from ..heads import FixedRouter
from ._routed import RoutedExperts


class EquiMod(RoutedExperts):
    """EquiMod: two separate heads, the first for the invariant and the second for the equivariant task."""

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,
        equivariant_weight: float = 1.0,
        hidden: int | None = None,  # width of the heads' hidden layers; None: the features' width
    ):
        router = FixedRouter([[1.0, 0.0], [0.0, 1.0]])
        super().__init__(num_features, policy, router, 2, temperature, equivariant_weight, hidden)
