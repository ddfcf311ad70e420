"""EquiMod (Devillers & Lefort, ICLR 2023) in STAR's frame: a separate head for each task.

Heads, shift predictor and losses are those of `star`, so that the routing is the only difference. Results are not
comparable with the original, whose predictor is one linear layer without the residual and whose params also encode the
order of the colour jitter.
"""

from typing import Any

from ..augmentations import Policy
from ..heads import FixedRouter
from ._routed import RoutedExperts


class EquiMod(RoutedExperts):
    """EquiMod: two separate heads, the first for the invariant task and the second for the equivariant task."""

    def __init__(self, num_features: int, policy: Policy, **shared: Any):
        super().__init__(num_features, policy, FixedRouter([[1.0, 0.0], [0.0, 1.0]]), **shared)
