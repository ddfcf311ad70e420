"""STAR (Jeon et al., NeurIPS 2025), called STAR-MMoE in the paper: learned routers mix shared experts."""

from typing import Any

from ..augmentations import Policy
from ..heads import Router
from . import _papers
from ._routed import RoutedExperts


class Star(RoutedExperts):
    """STAR: `num_experts` experts mixed by two learned softmax routers, one per task."""

    papers = (_papers.STAR,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        num_experts: int = 16,  # number of experts; released: 16 for STL-10 / ResNet-18, 8 for ImageNet-100 / ResNet-50
        **shared: Any,
    ):
        super().__init__(num_features, policy, Router(num_features, num_experts), **shared)
