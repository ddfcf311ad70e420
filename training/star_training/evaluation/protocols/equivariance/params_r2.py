"""R2 of a linear map from a representation to the params of views.

Letters: N images, F params that vary, K inputs, R resamples.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...metrics import Estimate
from ...solvers import ridge

_RESAMPLES = 200  # of the test images, in the bootstrap


class ParamsR2(NamedTuple):
    """R2 of params on test images, with intervals from a bootstrap over them; the fit is held fixed."""

    each: Tensor  # (F,), sklearn's R2 of each param
    mean: Estimate  # of `each`
    one_mean: Estimate  # SIE's R2, by one scalar mean over all params, which are standardised


def fit_and_score(train: Tensor, targets: Tensor, test: Tensor, truth: Tensor, seed: int) -> ParamsR2:
    """Fits a ridge regression from train (N, K) to targets (N, F) and returns its R2 on test images."""
    centre, unit = targets.mean(0), targets.std(0)
    predicted = ridge.fit(train, (targets - centre) / unit)(test)
    truth = (truth - centre) / unit
    each, one_mean = r2(truth, predicted, torch.ones(1, len(truth)))
    resampled, resampled_one_mean = r2(truth, predicted, _resamples(len(truth), seed))
    return ParamsR2(each[0], _metric(each[0].mean(), resampled.nanmean(1)), _metric(one_mean[0], resampled_one_mean))


def r2(truth: Tensor, predicted: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns 1 - squared error / squared deviation of truth (N, F), for each of R row weightings `counts` (R, N).

    The first result is per column, with deviations from the column's mean, as in sklearn: (R, F). The second is over
    all columns, with deviations from one scalar mean, as in SIE's released code: (R,). sklearn's r2_score takes one
    row weighting at a time.
    """
    truth, predicted, counts = truth.double(), predicted.double(), counts.double()
    error = counts @ (truth - predicted).square()
    first, second, rows = counts @ truth, counts @ truth.square(), counts.sum(1, keepdim=True)
    each = 1 - error / (second - first.square() / rows)
    deviation = second.sum(1) - first.sum(1).square() / (rows[:, 0] * truth.shape[1])
    return each, 1 - error.sum(1) / deviation


def _resamples(count: int, seed: int) -> Tensor:
    """Returns how often each row is drawn in each resample: (R, N)."""
    drawn = torch.randint(count, (_RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(drawn.shape).scatter_add_(1, drawn, torch.ones(drawn.shape))


def _metric(value: Tensor, resampled: Tensor) -> Estimate:
    # R2 is undefined, NaN or minus infinity, in resamples in which a param does not vary
    defined = resampled.where(resampled.isfinite(), torch.nan)
    low, high = defined.nanquantile(resampled.new_tensor([0.025, 0.975])).tolist()
    return Estimate(float(value), low, high)
