"""Few-shot classification, against scikit-learn's liblinear. Letters: T tasks, W classes, K shots, Q queries."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_cases import png, write_parquet
from eval_cases import Oracle, blobs, splits
from star_training.data.eval_sets.dataset import Splits
from star_training.data.views import seeded
from star_training.evaluation import metrics as metric
from star_training.evaluation.features import Labelled
from star_training.evaluation.frozen_model import load
from star_training.evaluation.protocols import few_shot
from twins import randn


def tasks(count: int, shots: int, width: int, scale: float = 1.0) -> Tensor:
    """Features of tasks whose classes overlap, as much in many dimensions as in few: (T, W, K + Q, D)."""
    signal = 3 / width**0.5
    spread, centres = randn(count, 5, shots + 16, width), randn(count, 5, 1, width, seed=1)
    return (spread + signal * centres) * scale


def liblinear(task: Tensor, shots: int, tol: float) -> Any:
    """scikit-learn's classifier of a task (W, K + Q, D), fitted; one against the rest, as its default used to be."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    multiclass = pytest.importorskip("sklearn.multiclass")
    peer = linear_model.LogisticRegression(solver="liblinear", tol=tol, max_iter=10_000)
    support = task[:, :shots].flatten(0, 1).double().numpy()
    return multiclass.OneVsRestClassifier(peer).fit(support, np.repeat(np.arange(5), shots))


def liblinear_hits(task: Tensor, shots: int, tol: float) -> Tensor:
    queries = task[:, shots:].flatten(0, 1).double().numpy()
    found = liblinear(task, shots, tol).predict(queries)
    return torch.from_numpy(found == np.repeat(np.arange(5), 16)).view(5, 16)


# The classifier


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize(("shots", "width"), [(1, 3), (1, 64), (5, 3), (5, 64), (5, 400)])
def test_every_prediction_is_liblinears(shots: int, width: int, scale: float):
    cases = tasks(12, shots, width, scale=scale)
    expected = torch.stack([liblinear_hits(task, shots, 1e-10) for task in cases])
    assert 0.2 < expected.double().mean() < 1
    assert torch.equal(few_shot.hits(cases, shots), expected)


@pytest.mark.parametrize("shots", [1, 5])
def test_liblinear_as_it_comes_stops_short_of_the_same_optimum(shots: int):
    cases = tasks(30, shots, 64, scale=10)
    expected = torch.stack([liblinear_hits(task, shots, 1e-4) for task in cases])
    ours = few_shot.hits(cases, shots)
    assert (ours == expected).double().mean() > 0.99
    assert abs(ours.double().mean() - expected.double().mean()) < 0.005


@pytest.mark.parametrize("shots", [1, 5])
def test_weights_and_intercept_are_liblinears(shots: int):
    (task,) = tasks(1, shots, 7)
    support = F.pad(task[:, :shots].flatten(0, 1).double(), (0, 1), value=1.0)
    weights = support.T @ few_shot.fit((support @ support.T)[None], 5)[0]  # (D + 1, W)
    peers = liblinear(task, shots, 1e-12).estimators_
    expected = np.stack([np.append(peer.coef_[0], peer.intercept_) for peer in peers], axis=1)
    torch.testing.assert_close(weights, torch.from_numpy(expected), rtol=1e-6, atol=1e-7)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    shots=st.integers(1, 5),
    width=st.integers(1, 30),
    ways=st.integers(2, 6),
    power=st.floats(-3, 4),
    seed=st.integers(0, 99),
)
def test_the_objectives_slope_is_zero_where_the_fit_ends(shots: int, width: int, ways: int, power: float, seed: int):
    support = F.pad(randn(ways * shots, width, seed=seed).double() * 10**power, (0, 1), value=1.0)
    weights = (support.T @ few_shot.fit((support @ support.T)[None], ways)[0]).requires_grad_()
    y = 2 * F.one_hot(torch.arange(ways).repeat_interleave(shots), ways) - 1
    objective = weights.square().sum() / 2 + F.softplus(-y * (support @ weights)).sum()
    (slope,) = torch.autograd.grad(objective, weights)
    assert slope.abs().max() < 1e-5 * (1 + support.abs().max())


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_a_collapsed_model_guesses(scale: float):
    assert few_shot.hits(torch.ones(4, 5, 21, 64) * scale, 5).double().mean() == pytest.approx(0.2)


def test_features_out_of_all_proportion_are_refused():
    with pytest.raises(ValueError, match="don't converge on these features"):
        few_shot.hits(tasks(2, 5, 64, scale=1e20), 5)


# The tasks


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(6, 30), min_size=5, max_size=9), shots=st.sampled_from([1, 5]), seed=st.integers(0, 99)
)
def test_a_task_has_five_classes_and_no_query_among_what_it_learns_from(sizes: list[int], shots: int, seed: int):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    members = [(labels == k).nonzero().flatten() for k in range(len(sizes))]
    drawn = few_shot.draw(members, shots, seeded(seed))
    assert drawn.shape == (5, shots + few_shot.QUERIES)
    of_class = labels[drawn]
    assert (of_class == of_class[:, :1]).all() and len(of_class[:, 0].unique()) == 5
    for row, label in zip(drawn, of_class[:, 0].tolist(), strict=True):
        support, queries = row[:shots], row[shots:]
        assert len(support.unique()) == shots and not torch.isin(queries, support).any()
        if sizes[label] >= shots + few_shot.QUERIES:
            assert len(queries.unique()) == few_shot.QUERIES


def test_every_class_and_image_is_drawn_equally_often():
    generator = seeded(0)
    members = list(torch.arange(7 * 40).view(7, 40))
    drawn = torch.stack([few_shot.draw(members, 1, generator) for _ in range(2000)])
    for part, expected in ((drawn[..., :1], 2000 * 5 / 280), (drawn[..., 1:], 2000 * 5 * 16 / 280)):
        counts = torch.bincount(part.flatten(), minlength=280)
        assert (counts - expected).abs().max() < 5 * expected**0.5


def test_tasks_are_a_function_of_the_seed_and_the_shots():
    points = blobs(300, classes=6, spread=2)

    def found(shots: int, seed: int) -> list[float]:
        return few_shot.accuracies(points, shots, seed, "points", 30).tolist()

    assert found(1, 0) == found(1, 0)
    assert found(1, 0) != found(1, 1) and found(1, 0) != found(5, 0)


def test_tasks_that_are_not_solved_at_once_are_all_counted(monkeypatch):
    points = blobs(300, classes=6, spread=2)
    whole = few_shot.accuracies(points, 1, 0, "points", 30)
    monkeypatch.setattr(few_shot, "_CHUNK", 7)
    torch.testing.assert_close(few_shot.accuracies(points, 1, 0, "points", 30), whole)


def test_classes_with_too_few_images_are_left_out():
    labels = torch.cat((torch.arange(5).repeat_interleave(30), torch.full((5,), 9)))
    embedded = (
        F.one_hot(labels, 10) * torch.where(labels == 9, torch.nan, 1.0)[:, None]
    )  # a query of class 9 would show
    assert (few_shot.accuracies(Labelled(embedded, labels), 5, 0, "points", 20) == 1).all()
    with pytest.raises(ValueError, match=r"points has 4 classes with at least 6 test images; 5-way 5-shot needs 5"):
        few_shot.accuracies(Labelled(embedded[30:], labels[30:]), 5, 0, "points", 20)


def test_labels_at_random_are_guessed_as_often_as_the_interval_says():
    points = Labelled(randn(4000, 8), torch.arange(4000) % 20)
    found = metric.mean(few_shot.accuracies(points, 1, 0, "points"))
    assert found.low is not None and found.high is not None
    assert found.low - 0.002 < 0.2 < found.high + 0.002 and found.high - found.low < 0.01


def test_two_thousand_tasks_take_less_than_a_minute():
    points = Labelled(randn(2000, 512).relu(), torch.arange(2000) % 20)
    before = time.perf_counter()
    for shots in few_shot.SHOTS:
        few_shot.accuracies(points, shots, 0, "points")
    assert time.perf_counter() - before < 60


# The protocol


@pytest.fixture
def fewer(monkeypatch) -> None:
    monkeypatch.setattr(few_shot.accuracies, "__defaults__", (40,))


def test_any_labelled_set_gives_both_numbers_over_its_test_images(fewer):
    test = blobs(400, classes=8, seed=1)
    found = few_shot.run(Oracle(), splits(blobs(3), test), seed=3)
    expected = {f"fewshot_5way_{k}shot": metric.mean(few_shot.accuracies(test, k, 3, "", 40)) for k in (1, 5)}
    assert {slug: m.estimate for slug, m in found.metrics.items()} == expected
    assert all(m.low < m.value < m.high for m in found.metrics.values())
    assert found.settings["images"] == "test"


def test_numbers_for_labels_are_refused():
    points = Labelled(randn(50, 3), randn(50, 2))
    with pytest.raises(ValueError, match="given has numbers for labels; few-shot tasks need classes"):
        few_shot.run(Oracle(), splits(points, points))


def pack(path: Path, text: bool = False, **parts: list[str | None]) -> Splits:
    """A Parquet file of 14 classes with 8 training and 4 test images each; `parts` say which part each class is in."""
    labels = [k % 14 for k in range(14 * 12)]
    names = [f"class {label:02d}" for label in labels]
    columns = {column: [of[label] for label in labels] for column, of in parts.items()}
    where = ["train"] * (14 * 8) + ["test"] * (14 * 4)
    images = [png(17 * label + k % 3) for k, label in enumerate(labels)]
    write_parquet(path, image=images, label=names if text else labels, split=where, **columns)
    return Splits(str(path))


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("folder", [False, True])
def test_benchmarks_that_a_file_knows_are_measured_on_their_novel_classes(tmp_path, monkeypatch, text, folder):
    given_to: dict[str, list[int]] = {}

    def accuracies(labelled: Labelled, shots: int, seed: int, name: str) -> Tensor:
        given_to[name] = torch.bincount(labelled.targets, minlength=14).tolist()
        return torch.tensor([0.5, 0.7])

    monkeypatch.setattr(few_shot, "accuracies", accuracies)
    cifarfs, fc100 = ["train"] * 5 + ["val"] * 2 + ["test"] * 7, ["test", None] * 7
    made = pack(tmp_path / "train.parquet", text, cifarfs=cifarfs, fc100=fc100)
    found = few_shot.run(load("pixels"), Splits(str(tmp_path)) if folder else made)
    assert list(found.metrics) == [f"fewshot_{name}_5way_{k}shot" for name in ("cifar_fs", "fc100") for k in (1, 5)]
    assert given_to == {"CIFAR-FS": [0] * 7 + [12] * 7, "FC100": [12, 0] * 7}
    assert found.settings["images"] == "train and test"


def test_a_file_may_know_one_benchmark_or_none(tmp_path: Path):
    one = pack(tmp_path / "one.parquet", fc100=["test", "train"] * 7)
    assert {name: novel.tolist() for name, novel in few_shot.benchmark_classes(one).items()} == {
        "FC100": [0, 2, 4, 6, 8, 10, 12]
    }
    assert few_shot.benchmark_classes(pack(tmp_path / "none.parquet")) == {}
    assert few_shot.benchmark_classes(Splits("spirograph:100")) == {}


def test_a_benchmark_of_too_few_novel_classes_is_refused_by_its_name(tmp_path: Path):
    made = pack(tmp_path / "one.parquet", cifarfs=["test"] * 3 + ["train"] * 11)
    with pytest.raises(ValueError, match="CIFAR-FS has 3 classes with at least 2 test images"):
        few_shot.run(load("pixels"), made)
