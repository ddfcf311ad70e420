"""EquiMod (Devillers & Lefort, ICLR 2023) in STAR's frame: a head of its own for each task.

Same heads, shift predictor and losses as `star`, so that the routing is the only difference. The original's predictor
is one linear layer without the residual, and its parameters encode the jitter's order too: its numbers are not these.
"""

from typing import Any

from ..augmentations import Policy
from ..heads import FixedRouter
from ._routed import RoutedExperts


class EquiMod(RoutedExperts):
    """EquiMod: two separate heads, the first for the invariant and the second for the equivariant task."""

    def __init__(self, num_features: int, policy: Policy, **shared: Any):
        super().__init__(num_features, policy, FixedRouter([[1.0, 0.0], [0.0, 1.0]]), **shared)
