"""Few-shot classification from augmented copies: its tasks, its classifier and its interval.

Letters: N images, A copies, D features, W classes, K shots, Q queries.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eval_cases import Oracle, blobs, splits
from star_training.evaluation.embeddings import Viewed
from star_training.evaluation.features import Labelled
from star_training.evaluation.metrics import of_runs
from star_training.evaluation.protocols import few_shot_augmented
from star_training.evaluation.protocols.few_shot_augmented import COPIES, QUERIES, Copied, accuracies, hits
from twins import POLICY, generator, randn

LINEAR = pytest.importorskip("sklearn.linear_model")
STATS = pytest.importorskip("scipy.stats")


def photos_of(points: Labelled, spread: float = 0.3) -> Copied:
    """Points with copies around them, at unit length."""
    count, width = points.features.shape
    copies = points.features[:, None] + spread * randn(count, COPIES, width, seed=5)
    return Copied(F.normalize(points.features, dim=-1), F.normalize(copies, dim=-1), points.targets)


def task(shots: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    centres = 0.6 * randn(5, 1, 12, seed=9)
    support, queries = randn(5, shots * COPIES, 12, seed=seed), randn(5, QUERIES, 12, seed=seed + 100)
    return F.normalize(centres + support, dim=-1), F.normalize(centres + queries, dim=-1)


# The classifier


@pytest.mark.parametrize("shots", [1, 5])
def test_predictions_are_those_of_the_multinomial_optimum(shots: int):
    """Gradient descent in double precision on sum of cross entropies + |w|^2 / 2, whose bias is free."""
    for seed in range(3):
        support, queries = task(shots, seed)
        x, labels = support.flatten(0, 1).double(), torch.arange(5).repeat_interleave(shots * COPIES)
        weights, bias = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((12, 5), (5,)))
        optimizer = torch.optim.LBFGS(
            [weights, bias], max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
        )

        def closure(x=x, labels=labels, weights=weights, bias=bias, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ weights + bias, labels, reduction="sum") + weights.square().sum() / 2
            loss.backward()
            return loss

        optimizer.step(closure)
        scores = queries.double() @ weights.detach() + bias.detach()
        found = hits(support, queries)
        assert 0.2 < found.double().mean() < 1
        agree = found == (scores.argmax(-1) == torch.arange(5)[:, None])
        assert agree.double().mean() > 0.98  # scikit-learn stops at a gradient of 1e-4


# The tasks


@pytest.mark.parametrize("shots", [1, 5])
def test_separable_features_are_all_classified(shots: int):
    found = accuracies(photos_of(blobs(300, classes=6, spread=0.01), 0.01), shots, 0, "points", 20)
    assert found.shape == (20,) and (found == 1).all()


def test_features_at_random_are_guessed():
    points = Labelled(randn(600, 8), torch.arange(600) % 10)
    found = of_runs(accuracies(photos_of(points), 1, 0, "points", 150).tolist())
    assert found.low - 0.01 < 0.2 < found.high + 0.01


def test_tasks_are_a_function_of_the_seed_and_the_shots():
    images = photos_of(blobs(300, classes=6, spread=2))

    def found(shots: int, seed: int) -> list[float]:
        return accuracies(images, shots, seed, "points", 12).tolist()

    assert found(1, 0) == found(1, 0)
    assert found(1, 0) != found(1, 1) and found(1, 0) != found(5, 0)


def test_a_task_learns_from_the_copies_alone_and_is_asked_about_the_images(monkeypatch):
    drawn = []

    def spy(support: Tensor, queries: Tensor) -> Tensor:
        drawn.append((support, queries))
        return torch.ones(5, QUERIES, dtype=torch.bool)

    monkeypatch.setattr(few_shot_augmented, "hits", spy)
    targets = torch.arange(200) % 8
    numbers = torch.arange(200.0)[:, None]
    accuracies(Copied(numbers, numbers[:, None] + torch.arange(1, 6)[:, None] / 10, targets), 2, 0, "points", 4)
    for support, queries in drawn:
        assert support.shape == (5, 2 * COPIES, 1) and queries.shape == (5, QUERIES, 1)
        assert sorted({round(x % 1, 1) for x in support.flatten().tolist()}) == [0.1, 0.2, 0.3, 0.4, 0.5]
        assert not (queries % 1).any()
        labelled = support.floor().long().flatten(1)
        assert (targets[labelled] == targets[labelled[:, :1]]).all()
        assert (targets[queries.long().flatten(1)] == targets[labelled[:, :1]]).all()
        assert not torch.isin(queries.long().flatten(), labelled.flatten()).any()


# The interval


def test_the_interval_is_scipys():
    values = torch.rand(600, generator=generator(3)).double()
    found = of_runs(values.tolist())
    error = STATS.sem(values.numpy())
    low, high = STATS.t.interval(0.95, 599, loc=np.mean(values.numpy()), scale=error)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean().item(), low, high))


# The protocol


@pytest.fixture
def fewer(monkeypatch) -> None:
    monkeypatch.setattr(few_shot_augmented.accuracies, "__defaults__", (10,))


@pytest.mark.usefixtures("fewer")
def test_any_labelled_set_gives_both_numbers_over_its_test_images(monkeypatch):
    test = blobs(200, classes=8, seed=1)
    images = photos_of(test)
    made = []

    def views(model, source, plan, seed):
        made.append((plan, seed))
        return Viewed(torch.zeros(200, COPIES, 0), images.copies)

    monkeypatch.setattr(few_shot_augmented, "view", views)
    found = few_shot_augmented.run(Oracle(), splits(blobs(3), test), seed=3)
    for k in (1, 5):
        metric = found.metrics[f"fewshot_5way_{k}shot_augmented"]
        assert metric.name == f"5-way {k}-shot, augmented" and metric.is_share and metric.is_accuracy
        assert metric.estimate == of_runs(accuracies(images, k, 3, "", 10).tolist())
    assert made == [(few_shot_augmented.copied, 3)]
    assert found.settings["images"] == "test" and found.settings["tasks"] == 600


def test_the_copies_are_five_draws():
    plan, g = few_shot_augmented.copied(POLICY, 20, 30, generator(1)), generator(1)
    assert torch.equal(plan, torch.stack([POLICY.draw(20, 30, g) for _ in range(5)]))


def test_numbers_and_too_few_classes_are_refused():
    points = Labelled(randn(50, 3), randn(50, 2))
    with pytest.raises(ValueError, match="given has numbers for labels; few-shot tasks need classes"):
        few_shot_augmented.run(Oracle(), splits(points, points))
    few = photos_of(Labelled(randn(40, 3), torch.arange(40) % 4))
    with pytest.raises(ValueError, match="points has 4 classes with at least 6 test images"):
        accuracies(few, 5, 0, "points")
