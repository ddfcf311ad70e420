"""The choice of one element of a group for each image, with gradients, and images turned by it.

Letters: B images, C channels, S image size, G elements of the group.
"""

import torch
from torch import Tensor

from ..groups import Group


def straight_through(scores: Tensor) -> Tensor:
    """Returns 1 at the largest of the scores and 0 elsewhere, with the gradient of their softmax: (B, G) -> (B, G).

    The softmax itself would blend all turned copies of an image, from which training doesn't recover.
    """
    soft = scores.softmax(1)
    hard = torch.zeros_like(soft).scatter(1, scores.argmax(1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())  # the bracket is exactly zero


def turn(x: Tensor, weights: Tensor, group: Group, back: bool = False) -> Tensor:
    """Returns the sum over elements of the turned images times their weight: (B, C, S, S), (B, G) -> (B, C, S, S).

    For weights of 0 and 1, each image is turned by the chosen element, or by its inverse if `back`, exactly.
    """
    elements = [group.inverse(g) if back else g for g in range(group.order)]
    turned = (weights[:, k, None, None, None] * group.act_on_images(x, g) for k, g in enumerate(elements))
    total = next(turned)
    for part in turned:
        total = total + part
    return total
