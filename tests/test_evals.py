"""Frozen features and what is measured on them, against scikit-learn and plain loops.

Letters: N bank or training images, M queries or test images, D features, K numbers, C classes.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from runs import pictures, tiny
from training import evals
from training.data import open_source
from training.evals import knn, linear, regression
from training.evals.features import (
    Labelled,
    NotFinite,
    base_view,
    drawn_view,
    evaluating,
    extract,
    pixels,
    timm_view,
)
from training.monitor import Monitor
from training.pretrainer import build
from training.spirograph import Spirographs
from twins import every_operation, randn

POLICY = tiny().policy


def blobs(count: int, classes: int = 3, width: int = 5, spread: float = 0.7, seed: int = 0) -> Labelled:
    """Points around one centre a class."""
    labels = torch.arange(count) % classes
    centres = randn(classes, width, seed=99) * 2
    return Labelled(centres[labels] + spread * randn(count, width, seed=seed) * 2, labels)


# Features


def backbone(seed: int = 0, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=0, **settings)


def test_evaluating_puts_everything_back_as_it_was():
    model = backbone(drop_rate=0.5)
    model.layer1.eval()  # a part that somebody froze
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for error in (None, RuntimeError):
        try:
            with evaluating(model):
                assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
                model(torch.rand(4, 3, 32, 32))
                if error:
                    raise error
        except RuntimeError:
            pass
        assert [m.training for m in model.modules()] == modes and torch.is_grad_enabled()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())  # running statistics too


@pytest.mark.parametrize("size", [1, 5, 7, 100])
def test_features_do_not_depend_on_the_batch(size: int):
    model, source = backbone(drop_rate=0.5), Spirographs(12)
    view = base_view(POLICY)
    found = extract(model, source, view, batch_size=size)
    with evaluating(model):
        singly = torch.cat([model(view([source[i]])) for i in range(12)])
    torch.testing.assert_close(found, singly, rtol=1e-4, atol=1e-5)
    assert found.shape == (12, 96) and found.dtype == torch.float32 and not found.requires_grad


def test_features_that_are_not_finite_are_refused():
    model = backbone()
    with torch.no_grad():
        model.bn1.weight[3] = math.nan
    with pytest.raises(NotFinite, match="5 of 5 images of spirograph:5 have features that are not finite"):
        extract(model, Spirographs(5), base_view(POLICY))
    assert issubclass(NotFinite, ValueError)


def test_the_base_view_is_the_image_without_augmentation(tmp_path: Path):
    source = open_source(str(pictures(tmp_path, 4, size=24)))
    policy = every_operation(16)
    images = [source[i] for i in range(4)]
    mean, std = (torch.tensor(v)[:, None, None] for v in (policy.mean, policy.std))
    for view, image in zip(base_view(policy)(images), images, strict=True):
        cropped = policy.crop(image, policy.base(*image.shape[-2:]))
        torch.testing.assert_close(view, (cropped / 255 - mean) / std, rtol=0, atol=1e-5)


def test_drawn_views_are_the_same_for_the_same_seed():
    images = [Spirographs(3)[i] for i in range(3)]
    one, again, other = (drawn_view(POLICY, seed)(images) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    view = drawn_view(POLICY, 0)
    assert not torch.equal(view(images), view(images))  # it goes on drawing


def test_timm_s_view_is_what_timm_does_in_evaluation(tmp_path: Path):
    source = open_source(str(pictures(tmp_path, 3)))
    model = backbone()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model), is_training=False)
    found = timm_view(model)([source[i] for i in range(3)])
    for view, index in zip(found, range(3), strict=True):
        assert torch.equal(view, transform(to_pil_image(source[index])))


def test_pixels_are_the_images():
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4)
    assert torch.equal(pixels(4)([image])[0], image / 255)
    assert pixels(2)([image, image[:, :3]]).shape == (2, 3, 2, 2)


# Nearest neighbours


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
    assert knn.accuracy(*bank, *queries, k, temperature) == slow_knn(*bank, *queries, k, temperature)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_neighbours_vote_as_in_scikit_learn(k: int):
    bank, queries = blobs(400, classes=4), blobs(300, classes=4, seed=1)
    neighbors = pytest.importorskip("sklearn.neighbors")
    peer = neighbors.KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    peer.fit(bank.features.double().numpy(), bank.targets.numpy())
    expected = peer.score(queries.features.double().numpy(), queries.targets.numpy())
    assert 0.5 < expected < 1
    assert knn.accuracy(*bank, *queries, k) == pytest.approx(expected, abs=1e-6)


def test_more_queries_than_fit_at_once_are_all_counted(monkeypatch):
    bank, queries = blobs(50), blobs(101, seed=1)
    whole = knn.accuracy(*bank, *queries, 5)
    monkeypatch.setattr(knn, "_CHUNK", 10)
    assert knn.accuracy(*bank, *queries, 5) == whole


def test_the_length_of_features_says_nothing():
    bank, queries = blobs(50), blobs(50, seed=1)
    lengths = torch.rand(50, 1) * 100 + 0.1
    assert knn.accuracy(bank.features * lengths, bank.targets, *queries, 5) == knn.accuracy(*bank, *queries, 5)


def test_a_class_that_the_bank_does_not_know_is_a_miss():
    bank = blobs(9)
    assert knn.accuracy(*bank, bank.features, bank.targets + 7, 1) == 0


@pytest.mark.parametrize("k", [0, 10])
def test_a_wrong_number_of_neighbours_is_refused(k: int):
    with pytest.raises(ValueError, match=f"k is {k}, but the bank has 9 images"):
        knn.accuracy(*blobs(9), *blobs(3), k)


# Linear evaluation


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
    assert found.accuracy == pytest.approx(peer(found.strength, both, test), abs=0.02)


def test_separable_classes_are_separated():
    train, val, test = (blobs(90, spread=0.01, seed=seed) for seed in range(3))
    assert linear.evaluate(train, val, test, 3)[0] == 1
    assert linear.run(train, test)["linear"] == 1


def test_labels_at_random_are_guessed():
    train, val, test = (
        Labelled(randn(400, 8, seed=seed), torch.randint(4, (400,), generator=torch.Generator().manual_seed(seed)))
        for seed in range(3)
    )
    assert linear.evaluate(train, val, test, 4).accuracy == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)


def test_a_class_without_training_images_is_no_error():
    found = linear.evaluate(blobs(30), blobs(30, seed=1), Labelled(randn(5, 5), torch.full((5,), 6)), 7)
    assert found.accuracy == 0


# Ridge regression


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


# Protocols and the monitor


def test_every_protocol_gives_numbers_by_name():
    assert {"knn", "linear", "regression"} <= set(evals.known())
    for name in ("knn", "linear"):
        found = evals.find(name)(blobs(40), blobs(20, seed=1), seed=0)
        assert found and all(isinstance(value, float) for value in found.values())
    numbers = Labelled(randn(40, 5), randn(40, 2, seed=1))
    assert evals.find("regression")(numbers, numbers).keys() == {"r2", "r2_0", "r2_1"}
    with pytest.raises(ValueError, match="protocol 'knnn' not found; did you mean 'knn'"):
        evals.find("knnn")


def test_the_monitor_disturbs_nothing():
    module, _ = build(tiny("backbone_args.drop_rate=0.3"))
    module.train()
    module.backbone.layer1.eval()
    modes = [m.training for m in module.modules()]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    random = torch.get_rng_state()
    monitor = Monitor(POLICY, Spirographs(40), Spirographs(30, "test"))
    first = monitor(module.backbone)
    assert first == monitor(module.backbone) and first.keys() == {"r2"}
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_the_monitor_of_classes_measures_neighbours(tmp_path: Path):
    policy = every_operation(32)
    source = open_source(str(pictures(tmp_path, 10)))
    model = backbone()
    found = Monitor(policy, source, source)(model)
    assert found == {"knn1": 1.0}  # each image is its own neighbour; there are no twenty


def test_the_monitor_needs_labels_and_held_out_images(tmp_path: Path):
    unlabelled = open_source(str(pictures(tmp_path, 10, classes=(".",))))
    assert unlabelled.targets is None
    assert Monitor(POLICY, Spirographs(9), None)(backbone()) == {}
    assert Monitor(POLICY, unlabelled, unlabelled)(backbone()) == {}
