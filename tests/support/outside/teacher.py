"""An objective without heads that reads images, labels and an intermediate map, and keeps a momentum copy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_zoo import Batch, Encoder, Objective, Policy
from star_zoo.momentum import MomentumCopy, cosine_momentum


class Teacher(Objective):
    """Three terms: classify a view, follow the momentum copy's features, predict brightness from an early map."""

    def __init__(self, num_features: int, policy: Policy, *, momentum: float = 0.9, classes: int = 2):
        super().__init__(policy)
        self.momentum = momentum
        self.classify = nn.Linear(num_features, classes)
        self.brightness = nn.Linear(1, 1)

    def plan(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        return torch.stack([self.policy.base(height, width), self.policy.draw(height, width, generator)])

    def forward(self, batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
        images = [encoder.augment(batch, view) for view in range(2)]
        base, drawn = encoder(images)
        (early,), _ = encoder.maps(images, [1])
        followed, _ = self.teacher(images)
        bright = self.brightness(early.mean((1, 2, 3))[:, None])[:, 0]
        return {
            "class": F.cross_entropy(self.classify(base).float(), batch.target),
            "follow": F.mse_loss(drawn.float(), followed.float()),
            "bright": 0.1 * F.mse_loss(bright.float(), batch.views[0].float().mean((1, 2, 3)) / 255),
        }

    def attach(self, encoder: Encoder) -> None:
        self.teacher = MomentumCopy(encoder)

    def after_step(self, encoder: Encoder, progress: float) -> None:
        self.teacher.update(encoder, cosine_momentum(self.momentum, progress))
