"""What every objective is. Letters: B images, V views of an image, D features, P augmentation parameters."""

from typing import Any

import torch
from torch import Tensor, nn

from ..augmentations import Policy


class Objective(nn.Module):
    """The heads, the view plan and the loss terms of one method; what is published beside the backbone.

    A subclass takes `num_features`, `policy` and keyword-only settings, builds its heads, and gives `plan` and
    `forward`. What it saves is its state_dict and `config`, from which `objectives.build` makes it again.
    """

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy
        self.config: dict[str, Any] = {}  # filled by objectives.build: name, num_features, settings, policy

    def plan(self, policy: Policy, height: int, width: int, generator: torch.Generator) -> Tensor:
        """The parameters of the views of one image of this size: (V, P), a pure function of the generator."""
        raise NotImplementedError

    def forward(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        """Named scalar terms, weight inside, whose sum is the loss; V features (B, D) and V raw params (B, P)."""
        raise NotImplementedError
