"""Linear evaluation, against scikit-learn. Letters: N training images, M test images, D features, C classes."""

import json
from typing import Any

import pytest
import torch

from eval_cases import Oracle, blobs, splits
from star_training.benchmarks.linear.compare import objective
from star_training.data.eval_sets.dataset import Splits
from star_training.data.eval_sets.transfer import HeldOut
from star_training.evaluation import metrics as metric
from star_training.evaluation.features import Labelled
from star_training.evaluation.protocols import linear
from star_training.evaluation.solvers.logistic import with_ones
from twins import randn


def named(given: Splits, name: str) -> Splits:
    """The same images as a data set of another name."""
    made = Splits(name)
    made.__dict__ |= {key: value for key, value in given.__dict__.items() if key != "spec"}
    return made


def both(*parts: Labelled) -> Labelled:
    return Labelled(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def peer(w: float, fit: Labelled, score: Labelled) -> torch.Tensor:
    """Which images scikit-learn's classifier hits; a column of ones stands for the bias, punished like a weight."""
    linear_model: Any = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LogisticRegression(C=1 / (2 * w), fit_intercept=False, tol=1e-9, max_iter=10_000)
    model.fit(with_ones(fit.features).numpy(), fit.targets.numpy())
    return torch.from_numpy(model.predict(with_ones(score.features).numpy())) == score.targets


def test_the_strengths_are_the_protocols():
    assert len(linear.STRENGTHS) == 45
    assert (linear.STRENGTHS[0], linear.STRENGTHS[-1]) == pytest.approx((1e-6, 1e5))
    ratios = {round(b / a, 4) for a, b in zip(linear.STRENGTHS, linear.STRENGTHS[1:], strict=False)}
    assert ratios == {round(10**0.25, 4)}


def test_the_strength_and_the_hits_are_those_that_scikit_learn_finds():
    train, val, test = (blobs(count, classes=4, spread=1.5, seed=seed) for seed, count in enumerate((60, 80, 90)))
    found = linear.evaluate(train, val, test, 4)
    on_validation = {w: round(float(peer(w, train, val).double().mean()), 9) for w in linear.STRENGTHS}
    assert found.chosen.validation == pytest.approx(on_validation, abs=1.01 / 80)  # one image where it decides nothing
    best = max(on_validation.values())
    strength = min(w for w, value in on_validation.items() if value == best)  # of equals the smallest
    assert found.chosen.strength == strength
    assert torch.equal(found.hits, peer(strength, both(train, val), test))


def test_of_equally_good_strengths_the_smallest_is_chosen():
    train, val, test = (blobs(90, spread=0.01, seed=seed) for seed in range(3))
    found = linear.evaluate(train, val, test, 3)
    assert found.hits.all() and found.chosen.validation[linear.STRENGTHS[5]] == 1
    assert found.chosen.strength == linear.STRENGTHS[0]


def test_fits_that_might_be_the_best_are_made_finer(monkeypatch):
    monkeypatch.setattr(linear, "_COARSE", 1e-3)
    monkeypatch.setattr(linear, "_GAP", 1e-3)  # so rough that several might be
    train, val = (blobs(120, classes=4, spread=1.5, seed=seed) for seed in range(2))
    chosen = linear.choose(linear.Logistic(*train, 4), val)
    rough = {fit.strength: fit for fit in linear.Logistic(*train, 4).path(linear.STRENGTHS, linear._GAP)}
    assert chosen.fit.gap <= linear._FINER[0] * chosen.fit.objective < rough[chosen.strength].gap


def test_a_fit_loses_up_to_the_gap_that_leaves_its_accuracy_below_the_one_reached():
    val = Labelled(torch.tensor([[4.0], [2.0], [-1.0], [-3.0]]), torch.zeros(4, dtype=torch.int64))
    weights = torch.tensor([[1.0, 0], [0, 0]]).double()  # the margins are the features, half of the images are hit
    fit = linear.Fit(1.0, weights, objective=100.0, gap=1e-12, undecided=8.0)
    contest = linear._Contest(val, linear.TOP1)
    assert contest.losing(fit) == 0  # nothing is reached
    contest.enter(fit)
    assert contest.losing(fit) == 0
    contest.enter(fit._replace(strength=0.5, weights=torch.tensor([[1.0, 2], [0, 0]]).double()))  # hits three
    assert contest.losing(fit) == pytest.approx((1 / linear._SURE) ** 2 * 8 / 2 / 100)  # by a margin of one
    contest.enter(fit._replace(strength=0.1, weights=torch.tensor([[1.0, 9], [0, 0]]).double()))  # hits all
    assert contest.losing(fit) == pytest.approx((3 / linear._SURE) ** 2 * 8 / 2 / 100)


@pytest.mark.parametrize(("classes", "width", "count"), [(10, 20, 500), (30, 40, 900)])
def test_fits_that_cannot_win_are_coarser_but_their_bounds_hold(classes: int, width: int, count: int):
    train, val = (blobs(count, classes=classes, width=width, spread=1.5, seed=seed) for seed in range(2))
    chosen = linear.choose(linear.Logistic(*train, classes), val)
    path = linear.Logistic(*train, classes, torch.float64).path(linear.STRENGTHS, 1e-12)
    exact = {fit.strength: fit for fit in path}
    reached = {w: float(linear.hits(fit, *val).double().mean()) for w, fit in exact.items()}
    assert chosen.strength == min(w for w in reached if reached[w] == max(reached.values()))
    assert all(reached[w] <= chosen.highest[w] + 1e-9 for w in reached)
    beaten = [w for w in reached if chosen.highest[w] < reached[chosen.strength]]
    assert max(chosen.fits[w].gap / chosen.fits[w].objective for w in beaten) > linear._COARSE
    gaps = {w: objective(chosen.fits[w].weights, train, w)[0] / exact[w].objective - 1 for w in reached}
    assert all(gap is None or gaps[w] <= 10 * gap + 1e-8 for w, gap in chosen.gaps().items())


def test_labels_at_random_are_guessed():
    train, val, test = (
        Labelled(randn(400, 8, seed=seed), torch.randint(4, (400,), generator=torch.Generator().manual_seed(seed)))
        for seed in range(3)
    )
    hits = linear.evaluate(train, val, test, 4).hits
    assert float(hits.double().mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)


def test_features_that_say_nothing_leave_the_guess():
    train, val, test = (Labelled(torch.ones(60, 5), torch.arange(60) % 3) for _ in range(3))
    assert float(linear.evaluate(train, val, test, 3).hits.double().mean()) == pytest.approx(1 / 3)


def test_a_class_without_training_images_is_missed():
    unseen = Labelled(randn(5, 5), torch.full((5,), 6))
    hits = linear.evaluate(blobs(30), blobs(30, seed=1), both(blobs(40, seed=2), unseen), 7).hits
    assert hits[:40].any() and not hits[40:].any()


# What the protocol says of a data set


def test_a_measurement_records_all_that_matters():
    train, test = blobs(200, spread=1.5), blobs(90, spread=1.5, seed=1)
    found = linear.run(Oracle(), splits(train, test), seed=3)
    assert json.loads(json.dumps([found.metrics, found.settings, found.details]))
    (hits,) = found.hits.values()
    assert float(hits.right.double().mean()) == found.metrics["linear_top1"].value and len(hits.weights) == 90
    rest, held = HeldOut(9, 1, 3).draw(200)
    expected = linear.evaluate(
        Labelled(train.features[rest], train.targets[rest]),
        Labelled(train.features[held], train.targets[held]),
        test,
        3,
    )
    assert found.metrics["linear_top1"].estimate == metric.share(expected.hits) and len(found.metrics) == 1
    assert found.settings["w"] == expected.chosen.strength
    assert (found.settings["train"], found.settings["validation"]) == (180, 20)
    assert found.settings["validation images"] == "20 of 200 training images at random, seed 3"
    assert len(found.details["validation top-1 by w"]) == 45
    gaps = dict(found.details["gap by w"])
    assert list(gaps) == list(linear.STRENGTHS) and 0 < gaps[found.settings["w"]] <= found.settings["gap"]
    validation = dict(found.details["validation top-1 by w"])
    highest = dict(found.details["highest validation top-1 within the gap, by w"])
    assert all(validation[w] <= highest[w] for w in linear.STRENGTHS)
    own = linear.run(Oracle(), splits(train, test, blobs(50, seed=2)))
    assert own.settings["validation images"] == "the data set's own"


def test_a_set_with_a_convention_is_measured_by_it():
    train, test = blobs(60, spread=1.5), blobs(50, spread=1.5, seed=1)
    test = Labelled(test.features[:31], test.targets[:31].clamp(max=1))
    found = linear.run(Oracle(), named(splits(train, test), "pets@/data"))
    assert list(found.metrics) == ["linear_per_class"]
    assert found.settings["validation images"] == "12 of 60 training images at random, seed 49"
    rest, held = HeldOut(2940, 740, 49).draw(60)
    parts = (Labelled(train.features[part], train.targets[part]) for part in (rest, held))
    expected = linear.evaluate(*parts, test, 3, linear.PER_CLASS)
    assert found.metrics["linear_per_class"].estimate == metric.class_mean(expected.hits, test.targets)


def test_the_mean_over_classes_chooses_too():
    """Of two strengths, one that hits all of a large class and one that hits all of two small ones."""
    targets = torch.tensor([0] * 8 + [1, 2])
    weights = linear.PER_CLASS.weights(targets)
    assert torch.allclose(weights / weights.sum(), torch.tensor([1 / 24] * 8 + [1 / 3] * 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (blobs(1), "given has 1 training images; pass two or more"),
        (Labelled(randn(20, 5), torch.zeros(20, dtype=torch.long)), "given: the training images are all of"),
        (blobs(2), "all of one class; pass images of at least two classes, and enough of each to hold some out"),
        (Labelled(randn(20, 5), randn(20, 2)), "given has numbers for labels; classification needs classes"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(train: Labelled, message: str):
    with pytest.raises(ValueError, match=message):
        linear.run(Oracle(), splits(train, train))


def test_images_of_one_class_are_refused_with_a_validation_split_too():
    one = Labelled(randn(20, 5), torch.zeros(20, dtype=torch.long))
    with pytest.raises(ValueError, match="given: the training images are all of one class"):
        linear.run(Oracle(), splits(one, blobs(9), blobs(9)))


def test_classes_that_only_the_test_images_have_are_refused():
    train, val, test = blobs(30, classes=3), blobs(12, classes=3, seed=1), blobs(30, classes=4, seed=2)
    with pytest.raises(ValueError, match=r"given: .* of 1 classes that no training image has \(3\)"):
        linear.run(Oracle(), splits(train, test, val))


def test_a_class_of_one_image_that_is_held_out_is_reported():
    train = blobs(30, classes=2)
    train.targets[0] = 2
    seed = next(s for s in range(99) if 0 in splits(train, train).held_out(s).draw(30)[1])
    with pytest.raises(ValueError, match="with enough images of each class to hold some out"):
        linear.run(Oracle(), splits(train, train), seed)
