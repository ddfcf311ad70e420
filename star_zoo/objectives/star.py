"""STAR (Jeon et al., NeurIPS 2025), STAR-MMoE in the paper: learned routers mix shared experts."""

from ..augmentations import Policy
from ..heads import Router
from ._routed import RoutedExperts


class Star(RoutedExperts):
    """STAR: `num_experts` experts mixed by two learned softmax routers, one per task."""

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        num_experts: int = 16,  # released scripts: 16 for STL-10 / ResNet-18, 8 for ImageNet-100 / ResNet-50
        temperature: float = 0.2,  # released code, both terms
        equivariant_weight: float = 1.0,  # lambda; hard-coded 1 in the released code
        hidden: int | None = None,  # width of the experts' hidden layers; None: the features' width
    ):
        router = Router(num_features, num_experts)
        super().__init__(num_features, policy, router, num_experts, temperature, equivariant_weight, hidden)
