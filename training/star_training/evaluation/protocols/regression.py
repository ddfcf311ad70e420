"""Ridge regression of numbers from features. Letters: N training images, M test images, D features, K numbers."""

import torch
from torch import Tensor

from ...data.eval_sets.dataset import Splits
from ..frozen_model import FrozenModel
from ..metrics import Measurement, Metric, NotApplicable, by_slug

IN_ALL = True
_STRENGTH = 1e-3


def run(model: FrozenModel, splits: Splits, seed: int = 0) -> Measurement:
    """Returns R2 of each target number that varies in the test images, and their mean; nothing is random."""
    train, test = model.labelled(splits.train), model.labelled(splits.test)
    if not train.targets.is_floating_point():
        raise NotApplicable(f"{splits.name} has classes for labels; regression needs numbers")
    each = {k: float(value) for k, value in enumerate(r2(*train, *test)) if value.isfinite()}
    if not each:
        raise NotApplicable(f"all numbers of {splits.name} are constant in its test images; regression needs variance")
    metrics = [Metric("r2", "R2", "R2", "regression", sum(each.values()) / len(each))]
    metrics += [Metric(f"r2_target_{k}", f"R2 of target {k}", "R2", "regression", value) for k, value in each.items()]
    return Measurement(by_slug(metrics), {"ridge per image": _STRENGTH})


def r2(train: Tensor, targets: Tensor, test: Tensor, truth: Tensor, strength: float = _STRENGTH) -> Tensor:
    """Returns the share of each number's variance that a linear map of features explains on the test set: (K,).

    train (N, D), targets (N, K), test (M, D), truth (M, K); features are standardised by the training set, the ridge
    is `strength` per image. 1 is perfect, 0 is as good as the training mean, and below 0 is worse than that; not finite
    for a number that is constant.
    """
    from sklearn.linear_model import Ridge

    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    x, unseen = (((images - mean) / std).double().numpy() for images in (train, test))
    fitted = Ridge(alpha=strength * len(x), solver="cholesky").fit(x, targets.double().numpy())
    residual = (truth - torch.from_numpy(fitted.predict(unseen)).reshape(truth.shape)).square().sum(0)
    # not sklearn's r2_score, which compares with the mean of the test set
    return (1 - residual / (truth - targets.mean(0)).square().sum(0)).float()
