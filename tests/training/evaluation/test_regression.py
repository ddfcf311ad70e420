"""Ridge regression, against scikit-learn."""

import pytest
import torch

from eval_cases import Oracle, blobs, splits
from star_training.evaluation.features import Labelled
from star_training.evaluation.protocols import knn, regression
from twins import randn


def test_ridge_regression_is_scikit_learn_s():
    train, test = randn(80, 6, seed=1) * torch.arange(1, 7) + 5, randn(40, 6, seed=2) * torch.arange(1, 7) + 5
    mix = randn(6, 3, seed=3)
    targets, truth = (x @ mix + 5 * randn(len(x), 3, seed=4) + 2 for x in (train, test))
    found = regression.r2(train, targets, test, truth, strength=0.1)
    x, unseen = ((part - train.mean(0)) / train.std(0) for part in (train, test))
    peer = (
        pytest.importorskip("sklearn.linear_model")
        .Ridge(alpha=0.1 * len(train))
        .fit(x.double().numpy(), targets.double().numpy())
    )
    residual = truth - torch.from_numpy(peer.predict(unseen.double().numpy()))
    expected = 1 - residual.square().sum(0) / (truth - targets.mean(0)).square().sum(0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_what_features_hold_is_found_and_noise_is_not():
    train, test = randn(500, 4), randn(300, 4, seed=1)
    assert regression.r2(train, train @ randn(4, 2), test, test @ randn(4, 2)).min() > 0.999
    assert regression.r2(train, randn(500, 2, seed=5), test, randn(300, 2, seed=6)).abs().max() < 0.05


def test_a_feature_that_never_varies_is_no_error():
    train, test = randn(50, 3), randn(20, 3, seed=1)
    train[:, 1] = test[:, 1] = 4
    assert regression.r2(train, train[:, :1], test, test[:, :1]).item() > 0.99


def test_the_protocol_gives_each_number_and_their_mean():
    numbers = Labelled(randn(40, 5), randn(40, 2, seed=1))
    metrics = regression.run(Oracle(), splits(numbers, numbers)).metrics
    assert metrics.keys() == {"r2", "r2_target_0", "r2_target_1"}
    assert metrics["r2"].value == pytest.approx((metrics["r2_target_0"].value + metrics["r2_target_1"].value) / 2)


def test_classes_are_no_numbers_and_numbers_no_classes():
    classes, numbers = splits(blobs(30), blobs(30)), splits(*2 * [Labelled(randn(30, 5), randn(30, 2))])
    with pytest.raises(ValueError, match="given has classes for labels; regression needs numbers"):
        regression.run(Oracle(), classes)
    with pytest.raises(ValueError, match="given has numbers for labels; classification needs classes"):
        knn.run(Oracle(), numbers)


def test_a_number_that_never_varies_has_no_r2():
    targets = torch.stack((randn(40, seed=1), torch.ones(40)), 1)
    numbers = Labelled(randn(40, 5), targets)
    metrics = regression.run(Oracle(), splits(numbers, numbers)).metrics
    assert metrics.keys() == {"r2", "r2_target_0"} and metrics["r2"].value == metrics["r2_target_0"].value
    constant = Labelled(randn(40, 5), torch.ones(40, 2))
    with pytest.raises(ValueError, match="all numbers of given are constant in its test images"):
        regression.run(Oracle(), splits(constant, constant))
