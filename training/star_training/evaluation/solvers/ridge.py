"""Ridge regression in closed form; generalised cross-validation chooses each output's strength.

Letters: N rows, K inputs, M outputs.
Source: Golub, Heath & Wahba (1979), generalised cross-validation: the strength l with the least
|y - y_hat|^2 / (N - tr H)^2, H = X (X^T X + N l)^-1 X^T; one eigendecomposition serves all strengths.
scikit-learn's RidgeCV minimises the leave-one-out error instead, which chooses other strengths.
"""

from typing import NamedTuple

import torch
from torch import Tensor

STRENGTHS = torch.logspace(-5, 2, 15, dtype=torch.float64).tolist()  # per row, for standardised inputs


class Ridge(NamedTuple):
    """A fitted linear map."""

    centre: Tensor  # (K,)
    scale: Tensor  # (K,)
    weights: Tensor  # (K, M)
    bias: Tensor  # (M,)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the outputs, (N, K) -> (N, M), float64."""
        return ((x.double() - self.centre) / self.scale) @ self.weights + self.bias


def fit(x: Tensor, y: Tensor) -> Ridge:
    """Fits the map from standardised inputs (N, K) to outputs (N, M), with a bias; rows must be independent."""
    x, y = x.double(), y.double()
    centre, scale, bias = x.mean(0), x.std(0), y.mean(0)
    scale = torch.where(scale > 1e-6 * centre.abs(), scale, torch.ones_like(scale))  # constant inputs are only centred
    return Ridge(centre, scale, solve((x - centre) / scale, y - bias), bias)


def solve(x: Tensor, y: Tensor) -> Tensor:
    """Returns the weights (K, M) from x (N, K) to y (N, M), without a bias."""
    count = len(x)
    power, axes = torch.linalg.eigh(x.T @ x)
    power = power.clamp(min=0)[:, None]  # (K, 1): the inputs' sum of squares along each axis
    cross = axes.T @ (x.T @ y)  # (K, M)
    least, best = y.new_full((y.shape[1],), torch.inf), torch.zeros_like(cross)
    for strength in STRENGTHS:
        inverse = 1 / (power + count * strength)
        squares = y.square().sum(0) - (cross.square() * (2 * inverse - power * inverse.square())).sum(0)
        score = squares / (count - (power * inverse).sum()).square()
        best = torch.where(score < least, inverse * cross, best)
        least = torch.minimum(score, least)
    return axes @ best
