"""A linear head that predicts labels. Letters: B images, D features, C outputs, K target numbers."""

import torch.nn.functional as F
from torch import Tensor, nn


class LabelHead(nn.Linear):
    """Predicts labels, classes or numbers, from features: (B, D) -> (B, C). The first K outputs predict K numbers.

    Raises ValueError for fewer than one output.
    """

    def __init__(self, num_features: int, num_classes: int):
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
        super().__init__(num_features, num_classes)

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        """Returns the cross entropy for classes (B,), the mean squared error for numbers (B, K), in float32.

        Raises ValueError if there are more numbers than outputs.
        """
        outputs = self(features).float()
        if not target.is_floating_point():
            return F.cross_entropy(outputs, target)
        if target.shape[1] > self.out_features:
            raise ValueError(
                f"the labels are {target.shape[1]} numbers, but num_classes is {self.out_features}; "
                f"pass num_classes={target.shape[1]} or more"
            )
        return F.mse_loss(outputs[:, : target.shape[1]], target)

    def unused(self, features: Tensor) -> Tensor:
        """Returns zero with a zero gradient, for images without labels: DDP needs a gradient of every weight."""
        zero: Tensor = 0 * self(features).float().sum()
        return zero
