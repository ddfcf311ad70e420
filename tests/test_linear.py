"""Linear evaluation, against scikit-learn. Letters: N training images, M test images, D features, C classes."""

from typing import Any

import pytest
import torch
from torch import nn

from eval_cases import Oracle, blobs, splits
from training.evals import linear
from training.features import Labelled
from twins import randn


def accuracy(found: linear.Linear) -> float:
    return float(found.hits.double().mean())


def logistic_regression(w: float) -> Any:
    """scikit-learn's, without an intercept: a column of ones stands for the bias, which is punished like a weight."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    return linear_model.LogisticRegression(C=1 / (2 * w), fit_intercept=False, tol=1e-10, max_iter=10_000)


@pytest.mark.parametrize("w", [1e-2, 1.0, 30.0])
def test_a_fit_reaches_the_optimum(w: float):
    features, labels = blobs(200, classes=3)
    probe = nn.Linear(5, 3).double()
    linear._fit(probe, features.double(), labels, w)
    ones = torch.cat((features.double(), torch.ones(200, 1)), 1)
    expected = torch.from_numpy(logistic_regression(w).fit(ones.numpy(), labels.numpy()).coef_)
    found = torch.cat((probe.weight, probe.bias[:, None]), 1).detach()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_strength_is_the_one_that_does_best_on_the_validation_images():
    train, val, test = (blobs(60, classes=4, spread=1.5, seed=seed) for seed in (0, 1, 2))

    def peer(w: float, fit: Labelled, score: Labelled) -> float:
        ones, scored = (torch.cat((part.features, torch.ones(len(part.features), 1)), 1) for part in (fit, score))
        return (
            logistic_regression(w).fit(ones.numpy(), fit.targets.numpy()).score(scored.numpy(), score.targets.numpy())
        )

    found = linear.evaluate(train, val, test, 4)
    on_validation = [peer(w, train, val) for w in linear.STRENGTHS]
    assert found.validation == pytest.approx(max(on_validation), abs=0.02)
    assert peer(found.strength, train, val) == pytest.approx(found.validation, abs=0.02)
    both = Labelled(torch.cat((train.features, val.features)), torch.cat((train.targets, val.targets)))
    assert accuracy(found) == pytest.approx(peer(found.strength, both, test), abs=0.02)


def test_separable_classes_are_separated():
    train, val, test = (blobs(90, spread=0.01, seed=seed) for seed in range(3))
    assert linear.evaluate(train, val, test, 3).hits.all()
    assert linear.run(Oracle(), splits(train, test)).metrics["Linear top-1"].value == 1
    assert linear.run(Oracle(), splits(train, test, val)).metrics["Linear top-1"].value == 1


def test_labels_at_random_are_guessed():
    train, val, test = (
        Labelled(randn(400, 8, seed=seed), torch.randint(4, (400,), generator=torch.Generator().manual_seed(seed)))
        for seed in range(3)
    )
    assert linear.evaluate(train, val, test, 4).hits.float().mean() == pytest.approx(
        0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5
    )


def test_a_class_without_training_images_is_no_error():
    found = linear.evaluate(blobs(30), blobs(30, seed=1), Labelled(randn(5, 5), torch.full((5,), 6)), 7)
    assert not found.hits.any()
