"""k nearest neighbours, against scikit-learn and a plain loop. Letters: N bank, M queries, D features."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eval_cases import Oracle, blobs, splits
from star_training.evaluation.protocols import knn


def accuracy(*args: Any) -> float:
    return float(knn.hits(*args).double().mean())


def slow_knn(bank: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, k: int, temperature: float) -> float:
    hits = 0
    for query, truth in zip(queries.double(), targets.tolist(), strict=True):
        cosines = [float(query @ row / query.norm() / row.norm()) for row in bank.double()]
        votes: dict[int, float] = {}
        for cosine, label in sorted(zip(cosines, labels.tolist(), strict=True), reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(cosine / temperature)
        hits += max(votes, key=lambda label: votes[label]) == truth
    return hits / len(targets)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(n=st.integers(3, 30), k=st.integers(1, 30), seed=st.integers(0, 99), temperature=st.sampled_from([0.07, 1.0]))
def test_neighbours_vote_as_in_a_plain_loop(n: int, k: int, seed: int, temperature: float):
    bank, queries = blobs(n, seed=seed), blobs(20, seed=seed + 100)
    k = min(k, n)
    assert accuracy(*bank, *queries, k, temperature) == slow_knn(*bank, *queries, k, temperature)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_neighbours_vote_as_in_scikit_learn(k: int):
    bank, queries = blobs(400, classes=4), blobs(300, classes=4, seed=1)
    neighbors = pytest.importorskip("sklearn.neighbors")
    peer = neighbors.KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    peer.fit(bank.features.double().numpy(), bank.targets.numpy())
    expected = peer.score(queries.features.double().numpy(), queries.targets.numpy())
    assert 0.5 < expected < 1
    assert accuracy(*bank, *queries, k) == pytest.approx(expected, abs=1e-6)


def test_more_queries_than_fit_at_once_are_all_counted(monkeypatch):
    bank, queries = blobs(50), blobs(101, seed=1)
    whole = accuracy(*bank, *queries, 5)
    monkeypatch.setattr(knn, "_CHUNK", 10)
    assert accuracy(*bank, *queries, 5) == whole


def test_the_length_of_features_says_nothing():
    bank, queries = blobs(50), blobs(50, seed=1)
    lengths = torch.rand(50, 1) * 100 + 0.1
    assert accuracy(bank.features * lengths, bank.targets, *queries, 5) == accuracy(*bank, *queries, 5)


def test_a_class_that_the_bank_does_not_know_is_a_miss():
    bank = blobs(9)
    assert accuracy(*bank, bank.features, bank.targets + 7, 1) == 0


@pytest.mark.parametrize("k", [0, 10])
def test_a_wrong_number_of_neighbours_is_refused(k: int):
    with pytest.raises(ValueError, match=f"k is {k}, but the bank has 9 images"):
        knn.hits(*blobs(9), *blobs(3), k)


def test_the_protocol_gives_both_numbers_with_intervals():
    bank, queries = blobs(60), blobs(50, seed=1)
    found = knn.run(Oracle(), splits(bank, queries))
    assert {k: m.value for k, m in found.metrics.items()} == {
        "knn1_top1": accuracy(*bank, *queries, 1),
        "knn20_top1": accuracy(*bank, *queries, 20),
    }
    assert all(m.low < m.value < m.high for m in found.metrics.values())


def test_classes_that_only_the_test_images_have_are_refused():
    bank, queries = blobs(30, classes=3), blobs(30, classes=5, seed=1)
    with pytest.raises(ValueError, match=r"given: .* of 2 classes that no training image has \(3, 4\)"):
        knn.run(Oracle(), splits(bank, queries))
