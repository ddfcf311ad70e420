"""Average precision where it is known: of perfect, absent, misplaced and hand-counted detections, and its interval."""

import sys

import numpy as np
import pytest
import torch

from detection_cases import given
from star_training.detection import bootstrap
from star_training.detection.average_precision import Detections, _evaluated, measure
from star_training.detection.datasets.base import Box, DetectionSet

ONE = pytest.approx(1)  # pycocotools divides by a little more than it counts
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def found(*boxes: tuple[int, float, float, float, float, float]) -> Detections:
    """Detections: label, corners, score."""
    table = torch.tensor(boxes)
    return Detections(table[:, 1:5], table[:, 0].long(), table[:, 5])


def values(images: DetectionSet, detections: list[Detections]) -> dict[str, float]:
    return {name: metric.value for name, metric in measure(images, detections).metrics.items()}


def random_set(count: int = 30, seed: int = 0) -> DetectionSet:
    generator = torch.Generator().manual_seed(seed)
    boxes = []
    for _ in range(count):
        corner = torch.randint(0, 60, (3, 2), generator=generator)
        sides = torch.randint(10, 40, (3, 2), generator=generator)
        boxes.append(
            [Box(k % 2, *c.tolist(), *(c + s).tolist()) for k, (c, s) in enumerate(zip(corner, sides, strict=True))]
        )
    return given(*boxes)


def noisy(images: DetectionSet, spread: float, seed: int = 0) -> list[Detections]:
    """The true boxes, moved by some pixels, with random scores."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Detections(
            t.boxes + spread * torch.randn(t.boxes.shape, generator=generator),
            t.labels,
            torch.rand(len(t.labels), generator=generator),
        )
        for t in map(images.target, range(len(images)))
    ]


def test_the_truth_scores_one():
    images = random_set()
    assert all(value == ONE for value in values(images, noisy(images, 0.0)).values())


def test_nothing_found_scores_zero():
    images = random_set()
    metrics = measure(images, [NOTHING] * len(images)).metrics
    assert all(metric.estimate == (0.0, 0.0, 0.0) for metric in metrics.values())


def test_boxes_of_other_images_score_next_to_nothing():
    images, others = random_set(), random_set(seed=5)
    assert values(images, noisy(others, 0.0))["coco_ap50"] < 0.05


def test_the_right_boxes_under_the_wrong_labels_score_zero():
    images = random_set()
    swapped = [d._replace(labels=1 - d.labels) for d in noisy(images, 0.0)]
    assert values(given(*[[Box(0, 0, 0, 50, 50)]] * 2), [found((1, 0, 0, 50, 50, 0.9))] * 2)["coco_ap50"] == 0
    assert values(images, swapped)["coco_ap50"] < 0.1  # but where two boxes happen to agree


def test_counted_by_hand():
    # two objects of one class; by falling score: right, wrong, right
    images = given([Box(0, 0, 0, 50, 50), Box(0, 50, 50, 100, 100)], classes=["a"])
    detections = [found((0, 0, 0, 50, 50, 0.9), (0, 0, 60, 30, 90, 0.8), (0, 50, 50, 100, 100, 0.7))]
    # precision 1 up to recall 1/2, then 2/3: 51 of COCO's 101 recalls, 6 of VOC07's 11
    expected = {"coco": (51 + 50 * 2 / 3) / 101, "voc": (6 + 5 * 2 / 3) / 11}
    for name, value in values(images, detections).items():
        assert value == pytest.approx(expected[name.split("_")[0]])


def test_a_box_counts_for_the_overlaps_that_it_reaches():
    # 80 of 100 pixels wide: overlap 0.8 passes 0.50, 0.55 ... 0.80
    metrics = values(given([Box(0, 0, 0, 100, 100)]), [found((0, 0, 0, 80, 100, 0.5))])
    assert metrics["coco_ap"] == pytest.approx(0.7) and metrics["coco_ap75"] == metrics["coco_ap50"] == ONE
    metrics = values(given([Box(0, 0, 0, 100, 100)]), [found((0, 0, 0, 70, 100, 0.5))])
    assert metrics["coco_ap"] == pytest.approx(0.5) and metrics["coco_ap75"] == 0 and metrics["voc_ap50"] == ONE


def test_finding_an_object_twice_is_wrong_once():
    images = given([Box(0, 0, 0, 50, 50), Box(0, 50, 50, 100, 100)])
    twice = found((0, 0, 0, 50, 50, 0.9), (0, 1, 1, 50, 50, 0.8), (0, 50, 50, 100, 100, 0.7))
    assert values(images, [twice])["coco_ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_classes_count_alike_and_those_without_objects_not_at_all():
    images = given([Box(0, 0, 0, 50, 50)], [Box(0, 0, 0, 50, 50)], [Box(2, 0, 0, 50, 50)], classes=["a", "b", "c"])
    perfect = found((0, 0, 0, 50, 50, 0.9), (1, 0, 0, 50, 50, 0.9))
    measured = measure(images, [perfect, perfect, NOTHING])
    assert measured.metrics["coco_ap"].value == pytest.approx(0.5)
    assert measured.details == {"COCO AP by class": {"a": ONE, "c": 0.0}}


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_what_is_ignored_is_neither_asked_for_nor_wrong(kind: str):
    plain, other = Box(0, 0, 0, 50, 50), Box(0, 50, 50, 100, 100)._replace(**{kind: True})
    images = given([plain, other])
    easy = (0, 0, 0, 50, 50, 0.5)
    assert values(images, [found(easy)])["coco_ap"] == ONE
    many = [found(easy, (0, 50, 50, 100, 100, 0.9), (0, 51, 51, 100, 100, 0.8))]
    assert values(images, many)["coco_ap50"] == ONE
    part = [found(easy, (0, 50, 50, 70, 70, 0.9))]  # inside: a crowd's member, but not the difficult object
    assert values(images, part)["coco_ap50"] == (ONE if kind == "crowd" else pytest.approx(0.5))


def test_a_set_without_boxes_has_no_average_precision():
    with pytest.raises(ValueError, match="given has no boxes to detect"):
        measure(given([], []), [NOTHING] * 2)
    with pytest.raises(ValueError, match="no boxes"):
        measure(given([Box(0, 0, 0, 9, 9, difficult=True)]), [NOTHING])


# Intervals


def test_precision_over_the_images_as_they_are_is_that_of_pycocotools():
    images = random_set()
    detections = noisy(images, 4.0)
    detections[3:6] = [NOTHING] * 3
    detections[7] = detections[7]._replace(scores=torch.full((3,), 0.5))
    detections[8] = detections[8]._replace(scores=torch.full((3,), 0.5))  # ties
    evaluated = _evaluated(images, detections)
    official = evaluated.eval["precision"][..., 0, 0]
    ours = bootstrap.precision(
        bootstrap.matches(evaluated, len(images)), np.ones(len(images)), evaluated.params.recThrs
    )
    np.testing.assert_allclose(ours, official, atol=1e-12)
    assert 0.1 < official.mean() < 0.9


def test_an_image_counted_twice_is_an_image_given_twice():
    images = random_set(12)
    detections = noisy(images, 4.0)
    weights = np.arange(12) % 3  # some not at all
    evaluated = _evaluated(images, detections)
    ours = bootstrap.precision(bootstrap.matches(evaluated, 12), weights, evaluated.params.recThrs)
    chosen = [k for k in range(12) for _ in range(weights[k])]
    boxes = [[Box(int(label), *b.tolist()) for b, label in zip(*images.target(k)[:2], strict=True)] for k in chosen]
    again = _evaluated(given(*boxes), [detections[k] for k in chosen])
    np.testing.assert_allclose(ours, again.eval["precision"][..., 0, 0], atol=1e-12)


def test_intervals_shrink_with_more_images_and_are_the_same_again():
    widths = []
    for count in (10, 90):
        images = random_set(count)
        metric = measure(images, noisy(images, 4.0)).metrics["coco_ap50"]
        assert metric == measure(images, noisy(images, 4.0)).metrics["coco_ap50"]
        assert metric.low < metric.value < metric.high
        widths.append(metric.high - metric.low)
    assert widths[1] < widths[0] / 2


def test_an_interval_covers_what_more_images_give():
    truth = measure(random_set(1500), noisy(random_set(1500), 4.0)).metrics["coco_ap50"].value
    inside = 0
    for seed in range(1, 13):
        images = random_set(40, seed)
        metric = measure(images, noisy(images, 4.0, seed)).metrics["coco_ap50"]
        inside += metric.low <= truth <= metric.high
    assert inside >= 9


def test_one_image_has_no_interval():
    metric = measure(given([Box(0, 0, 0, 50, 50)]), [found((0, 0, 0, 50, 50, 0.9))]).metrics["coco_ap"]
    assert metric.estimate == (ONE, None, None)


def test_pycocotools_prints_nothing(capsys):
    values(random_set(3), [NOTHING] * 3)
    assert capsys.readouterr() == ("", "")


def test_without_pycocotools_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match="needs pycocotools: pip install"):
        measure(random_set(3), [NOTHING] * 3)
