"""Turned test images: turns in closed form, models that see no turn or every turn, and the upright protocols' numbers.

Letters: B images, M test images, S side, T turns, D features.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data_cases import birds
from eval_cases import Oracle, splits
from star_training.cli import main as cli
from star_training.evaluation import frozen_model
from star_training.evaluation import metrics as metric
from star_training.evaluation.features import Labelled, pixels
from star_training.evaluation.frozen_model import FrozenModel
from star_training.evaluation.metrics import Measurement
from star_training.evaluation.paired_comparison import compare
from star_training.evaluation.protocols import knn, linear, rotated
from star_training.evaluation.protocols.rotated import ANGLES, QUARTERS, Result
from star_training.evaluation.record import evaluate
from twins import photos, randn
from view_cases import Photos, Sees, data, unchanged

SIDE = 8
T = len(QUARTERS) + 1 + len(ANGLES)

# Turns


@pytest.mark.parametrize("side", [1, 2, 7, 8, 32])
def test_quarter_turns_permute_pixels(side: int):
    images = randn(2, 3, side, side)
    found = list(rotated.turns(images))
    assert len(found) == T and all(each.shape == images.shape for each in found)
    for count, each in enumerate(found[: len(QUARTERS)]):
        assert torch.equal(each, images.rot90(count, (-2, -1)))


def test_no_angle_is_a_quarter_turn_and_all_are_evenly_spaced():
    assert not any(angle % 90 == 0 for angle in ANGLES) and 45 in ANGLES
    assert {(b - a) % 360 for a, b in zip(ANGLES, (*ANGLES[1:], ANGLES[0]), strict=True)} == {360 // len(ANGLES)}


@pytest.mark.parametrize("side", [1, 2, 7, 8, 33])
def test_the_disc_holds_the_pixels_whose_centres_are_near_enough(side: int):
    middle = (side - 1) / 2
    expected = [[(x - middle) ** 2 + (y - middle) ** 2 <= middle**2 for x in range(side)] for y in range(side)]
    inside = rotated.disc(side)
    assert inside.tolist() == expected
    assert torch.equal(inside, inside.rot90()) and torch.equal(inside, inside.T)


@pytest.mark.parametrize("side", [7, 8, 33])
def test_a_turned_ramp_is_a_ramp_in_the_turned_direction(side: int):
    """Bilinear interpolation is exact for linear functions; turns are counter-clockwise."""
    middle = (side - 1) / 2
    right = (torch.arange(side) - middle).double().expand(side, side)
    up = -right.T
    _, *discs = list(rotated.turns((3 * right + 2 * up + 1)[None, None].expand(1, 3, -1, -1)))[len(QUARTERS) - 1 :]
    for degrees, found in zip((0, *ANGLES), discs, strict=True):
        angle = torch.tensor(degrees).double().deg2rad()
        a, b = 3 * angle.cos() - 2 * angle.sin(), 3 * angle.sin() + 2 * angle.cos()
        expected = (a * right + b * up + 1) * rotated.disc(side)
        torch.testing.assert_close(found[0, 0], expected, atol=1e-4, rtol=0)  # torchvision's grid is float32


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="the model's input is 8 x 6; only square images can be turned"):
        list(rotated.turns(torch.zeros(1, 3, 8, 6)))


# Models that see no turn, and those that see every turn


def images_of(images: Tensor, targets: Tensor, name: str) -> Photos:
    """A source of given images with labels."""
    source = Photos(len(images), name=name)
    source.images, source.targets = images, targets
    return source


def seen_by(backbone: nn.Module, side: int = SIDE) -> FrozenModel:
    return FrozenModel("model", backbone, pixels(side))


def measured(backbone: nn.Module, train: Photos, test: Photos) -> Measurement:
    return rotated.run(seen_by(backbone), data(train, test))


class Sorted(nn.Module):
    """The values of every channel in their order: the same for every turn, to the last bit."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2).sort(2).values.flatten(1)


class MeanColor(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_a_model_that_sees_no_quarter_turn_has_the_same_hits_at_all():
    def noisy(count: int, seed: int) -> Photos:
        targets = torch.arange(count) % 3
        brightness = 0.7 + 0.05 * targets[:, None, None, None]
        images = (photos(count, SIDE, SIDE, seed) * brightness).to(torch.uint8)
        return images_of(images, targets, f"noisy {seed}")

    found = measured(Sorted(), noisy(90, 0), noisy(60, 1))
    for values in found.details["quarter turns"].values():
        assert len(values) == 4 and len(set(values)) == 1 and 1 / 3 < values[0] < 1
    for name in ("knn20", "linear"):
        mean, worst = (found.metrics[f"rotated_{name}_top1_c4_{which}"] for which in ("mean", "worst"))
        assert mean.estimate == pytest.approx(worst.estimate)


def test_images_without_direction_are_recognised_at_every_angle_alike():
    def plain(count: int, seed: int) -> Photos:
        """Images of one colour, around one of three greys."""
        targets = torch.arange(count) % 3
        colors = (80 + 20 * targets[:, None] + 20 * randn(count, 3, seed=seed)).clamp(0, 255).to(torch.uint8)
        return images_of(colors[:, :, None, None].expand(-1, -1, SIDE, SIDE).clone(), targets, f"plain {seed}")

    found = measured(MeanColor(), plain(90, 0), plain(60, 1))
    for values in found.details["discs"].values():
        assert len(values) == 1 + len(ANGLES) and len(set(values)) == 1
    assert found.metrics["rotated_linear_top1_c4_worst"].value > 0.6


def bright_edges(count: int, seed: int) -> Photos:
    """Noise with a bright edge, of class k after k quarter turns: another turn makes it look like class k + 1."""
    images = photos(count, SIDE, SIDE, seed) // 4
    images[:, :, :2] += 150
    targets = torch.arange(count) % 4
    turned = [image.rot90(int(k), (-2, -1)) for image, k in zip(images, targets, strict=True)]
    return images_of(torch.stack(turned), targets, f"edges {seed}")


def test_a_model_that_is_perfect_upright_guesses_when_turned():
    found = measured(nn.Flatten(), bright_edges(80, 0), bright_edges(40, 1))
    assert found.details["quarter turns"] == {"20-NN": [1, 0, 0, 0], "Linear": [1, 0, 0, 0]}
    for name in ("knn20", "linear"):
        assert found.metrics[f"rotated_{name}_top1_c4_mean"].value == 0.25
        assert found.metrics[f"rotated_{name}_top1_c4_worst"].value == 0
        assert found.metrics[f"rotated_{name}_top1_angles_worst"].value == 0
    assert found.details["discs"]["Linear"][0] > 0.9
    opposite = [found.details["discs"]["Linear"][1 + ANGLES.index(angle)] for angle in (165, 195)]
    assert opposite == [0, 0]


# The numbers


def test_upright_images_have_the_accuracies_of_knn_and_linear():
    model, seen = seen_by(nn.Flatten()), data(bright_edges(60, 0), noisy := bright_edges(40, 1))
    noisy.targets[:10] = noisy.targets[:10].roll(1)  # so that some are missed
    found = rotated.run(model, seen)
    for name, protocol, slug in (("20-NN", knn, "knn20_top1"), ("Linear", linear, "linear_top1")):
        value = protocol.run(model, seen).metrics[slug].value
        assert found.details["quarter turns"][name][0] == found.metrics[f"rotated_{slug}_upright"].value == value < 1


def result(accuracy: linear.Accuracy = linear.TOP1, count: int = 60) -> Result:
    targets = torch.arange(count) % 5 // 2  # three classes of different sizes
    rates = torch.linspace(0.9, 0.3, T)[:, None]
    hits = torch.rand(T, count, generator=torch.Generator().manual_seed(0)) < rates
    return Result("linear", "Linear", accuracy, hits, targets)


@pytest.mark.parametrize("accuracy", [linear.TOP1, linear.PER_CLASS])
def test_means_and_worst_turns_are_those_of_a_plain_loop(accuracy: linear.Accuracy):
    made = result(accuracy)
    found = {m.slug: (m, hits) for m, hits in made.metrics()}
    classes = range(3) if accuracy == linear.PER_CLASS else [slice(None)]
    values = []
    for hits in made.hits:
        of_class = [hits[made.targets == k] if isinstance(k, int) else hits for k in classes]
        values.append(sum(float(part.double().mean()) for part in of_class) / len(of_class))
    quarters, disc, angles = values[:4], values[4], values[5:]
    expected = {
        "upright": quarters[0], "c4_mean": sum(quarters) / 4, "c4_worst": min(quarters), "upright_disc": disc,
        "angles_mean": sum(angles) / len(angles), "angles_worst": min(angles),
    }  # fmt: skip
    assert list(found) == [f"rotated_linear_{accuracy.slug}_{part}" for part in expected]
    for (one, hits), value in zip(found.values(), expected.values(), strict=True):
        assert one.value == pytest.approx(value) and one.low < value < one.high
        assert float(hits.weights @ hits.right.double() / hits.weights.sum()) == pytest.approx(value)
        assert one.is_accuracy and one.is_share and one.averaged_as[0].startswith("rotated_linear_accuracy_")


def test_the_interval_of_a_mean_over_turns_is_no_narrower_than_that_of_independent_images():
    shares = result(count=400).quarters.double().mean(0)
    wide, exact = metric.share(shares), metric.mean(shares)
    assert wide.value == pytest.approx(exact.value)
    assert wide.low < exact.low < exact.high < wide.high
    whole = (shares > 0.5).double()  # images that are right at all turns or at none
    assert metric.share(whole) == metric.share(whole.bool())


def test_a_record_is_plain_json_and_the_model_comes_back_as_it_came(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rotated, "_IMAGES", 30)
    seen, model = data(60, 50), Sees()
    seen.train.targets, seen.test.targets = torch.arange(60) % 3, torch.arange(50) % 3
    same = unchanged(model)
    first, again = (evaluate("rotated", model, seen) for _ in range(2))
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict() and same()
    assert (first.metrics, first.details) == (again.metrics, again.details)
    assert first.settings["images"] == 30 and first.images["test"] == 50
    assert first.settings["angles"]["C4"] == [0, 90, 180, 270] and first.settings["angles"]["disc"] == list(ANGLES)
    assert len(first.metrics) == 12


def test_fewer_than_twenty_training_images_have_no_twenty_neighbours():
    found = measured(nn.Flatten(), bright_edges(16, 0), bright_edges(8, 1))
    assert len(found.metrics) == 6 and all(slug.startswith("rotated_linear_") for slug in found.metrics)


def test_numbers_for_labels_are_refused_before_anything_is_turned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rotated, "turned", None)
    numbers = Labelled(randn(40, 5), randn(40, 2))
    with pytest.raises(ValueError, match="given has numbers for labels; classification needs classes"):
        rotated.run(Oracle(), splits(numbers, numbers))


def test_two_models_are_compared_on_the_same_turned_images():
    seen = data(bright_edges(60, 0), bright_edges(40, 1))
    rows = {row.metric: row for row in compare(seen_by(Sorted()), seen_by(nn.Flatten()), [seen], ["rotated"], 0)}
    assert len(rows) == 12
    assert rows["rotated_knn20_top1_c4_worst"].name == "20-NN top-1, worst of the four quarter turns"
    both = compare(seen_by(Sorted()), seen_by(nn.Flatten()), [seen], ["knn", "rotated"], 0)
    assert not {"rotated_knn20_top1_upright"} & {row.metric for row in both} and len(both) == 2 + 11
    row = rows["rotated_linear_top1_c4_mean"]
    assert row.second == 0.25 and row.difference.value == pytest.approx(row.first - 0.25)
    assert row.difference.low <= row.difference.value <= row.difference.high


@pytest.mark.parametrize("name", ["pixels", "averaged(views=2):untrained:test_resnet"])
def test_models_of_every_kind_are_measured(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frozen_model, "_PIXELS", SIDE)
    monkeypatch.setattr(rotated, "_IMAGES", 4)
    out = tmp_path / "results.json"
    assert cli.main(["eval", "rotated", name, "--data", str(birds(tmp_path)), "--out", str(out)]) == 0
    (record,) = json.loads(out.read_text())["evaluations"]
    assert record["protocol"] == "rotated" and len(record["metrics"]) == 12
