"""RankMe, the effective rank of features or of an embedding. Letters: N images, D features."""

import torch
from torch import Tensor


def rank_me(x: Tensor) -> Tensor:
    """Returns exp(entropy of the singular values' shares) of (N, D), not centred: between 1 and min(N, D).

    Source: RankMe (Garrido et al., ICML 2023), eq. 1, without its epsilon: 0 log 0 is 0.
    """
    sizes = torch.linalg.svdvals(torch.linalg.qr(x.double(), mode="r").R)
    if not sizes.any():
        raise ValueError("all features are 0, so they have no rank")
    shares = sizes / sizes.sum()
    return torch.special.entr(shares).sum().exp()
