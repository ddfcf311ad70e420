"""Linear evaluation with few labels."""

import json

import pytest
import torch

from eval_cases import Oracle, blobs, splits
from star_training.evaluation import metrics as metric
from star_training.evaluation.features import Labelled
from star_training.evaluation.protocols import label_fraction
from star_training.evaluation.solvers.logistic import Logistic
from twins import randn


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, [2, 1, 1, 1]), (0.1, [20, 6, 1, 1]), (1.0, [200, 55, 9, 1])])
def test_each_class_keeps_its_share_of_labels_and_one_at_least(fraction: float, expected: list[int]):
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([200, 55, 9, 1]))
    labels = labels[torch.randperm(265, generator=torch.Generator().manual_seed(1))]
    drawn = label_fraction.draw(labels, fraction, torch.Generator().manual_seed(0))
    assert labels[drawn].bincount().tolist() == expected
    assert len(drawn.unique()) == len(drawn)


def test_every_image_is_drawn_as_often():
    labels, generator = torch.arange(40) % 2, torch.Generator().manual_seed(0)
    times = torch.cat([label_fraction.draw(labels, 0.1, generator) for _ in range(2000)]).bincount(minlength=40)
    assert (times - 200).abs().max() < 5 * 200**0.5


def test_the_mean_of_five_draws_has_the_interval_over_them():
    train, test, val = (blobs(count, spread=1.5, seed=seed) for seed, count in enumerate((400, 150, 60)))
    found = label_fraction.run(Oracle(), splits(train, test, val), seed=1)
    assert list(found.metrics) == ["linear_top1_1pct", "linear_top1_10pct"]
    assert found.settings["labels"] == {"1 %": 3, "10 %": 39} and found.settings["validation"] == 60
    for name, value in zip(("1 %", "10 %"), found.metrics.values(), strict=True):
        assert len(found.details["by draw"][name]) == 5 == len(found.details["w by draw"][name])
        assert value.estimate == metric.of_runs(found.details["by draw"][name]) and value.low < value.value < value.high
    assert json.loads(json.dumps(found._asdict()))
    assert found == label_fraction.run(Oracle(), splits(train, test, val), seed=1)
    assert found.details != label_fraction.run(Oracle(), splits(train, test, val), seed=2).details


def test_only_the_labels_drawn_are_fitted(monkeypatch: pytest.MonkeyPatch):
    fitted = []

    def recorded(features: torch.Tensor, labels: torch.Tensor, classes: int) -> Logistic:
        fitted.append((len(labels), classes))
        return Logistic(features, labels, classes)

    monkeypatch.setattr(label_fraction, "Logistic", recorded)
    label_fraction.run(Oracle(), splits(blobs(300), blobs(60, seed=1)))
    assert fitted == [(3, 3)] * 5 + [(27, 3)] * 5


def test_more_labels_are_better():
    train, test, val = (blobs(count, width=20, spread=2.5, seed=seed) for seed, count in enumerate((900, 600, 90)))
    few, more = label_fraction.run(Oracle(), splits(train, test, val)).metrics.values()
    assert few.value + 0.05 < more.value


def test_numbers_are_refused():
    numbers = Labelled(randn(20, 5), randn(20, 2))
    with pytest.raises(ValueError, match="given has numbers for labels"):
        label_fraction.run(Oracle(), splits(numbers, numbers))
