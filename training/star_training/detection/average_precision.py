"""COCO's and VOC's average precision, computed by pycocotools, with intervals over images.

Letters: N images, K detections in one, T IoU thresholds, R recalls, C classes.
"""

import contextlib
import functools
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from star_catalog.names import slugify

from ..evaluation.features import evaluating
from ..evaluation.metrics import ACCURACY, SHARE, Estimate, Measurement, Metric, Z, by_slug
from . import bootstrap
from .datasets.base import DetectionSet
from .views import fit, rescale

_RESAMPLES = 200


class Detections(NamedTuple):
    """A detector's output for one image."""

    boxes: Tensor  # (K, 4) float32: left, top, right, bottom in pixels of the image
    labels: Tensor  # (K,) int64, from 0
    scores: Tensor  # (K,) float32


def predict(
    detector: nn.Module, images: DetectionSet, indices: Sequence[int], short: int, long: int
) -> list[Detections]:
    """Returns the detections of a detector of `model.build` in some images, which it processes one by one.

    The shorter side has `short` pixels, or fewer if the longer side would exceed `long`.
    """
    device = next(detector.parameters()).device
    found = []
    with evaluating(detector):
        for index in indices:
            whole = images.image(index)
            image = fit(whole, short, long)
            (output,) = detector([image.to(device).float() / 255])
            boxes = rescale(output["boxes"].float().cpu(), image, whole)
            found.append(Detections(boxes, output["labels"].cpu() - 1, output["scores"].float().cpu()))
    return found


def check_measurable(images: DetectionSet) -> None:
    """Raises ValueError for a set without boxes to detect: difficult ones, and those of crowds, are none."""
    if bool((images.all_boxes.difficult | images.all_boxes.crowd).all()):
        raise ValueError(f"{images.name} has no boxes to detect, so average precision is undefined")


def measure(images: DetectionSet, detections: Sequence[Detections]) -> Measurement:
    """Returns the average precision of detections in a set's images, in their order; the details hold it by class.

    "COCO AP" is the mean over ten IoU thresholds from 0.5 to 0.95 and over 101 recalls; AP50 and AP75 use one
    threshold. "VOC" is VOC07's mean over 11 recalls, which detectron2 reports for VOC07; both use COCO's matching.
    Intervals extend 1.96 standard errors to both sides, estimated from 200 bootstrap resamples of the images; they hold
    the trained detector fixed. Raises ValueError as `check_measurable`, ImportError without pycocotools.
    """
    check_measurable(images)
    evaluated = _evaluated(images, detections)
    curves = evaluated.eval["precision"][..., 0, 0]  # (T, R, C)
    curves = np.where(curves < 0, np.nan, curves)
    classes, recalls = bootstrap.matches(evaluated, len(images)), evaluated.params.recThrs
    draws = np.random.default_rng(0).multinomial(len(images), np.full(len(images), 1 / len(images)), _RESAMPLES)
    drawn = [_averages(bootstrap.precision(classes, weights, recalls)) for weights in draws]
    metrics = []
    for name, value in _averages(curves).items():
        half = Z * float(np.nanstd([averages[name] for averages in drawn], ddof=1))
        one = len(images) == 1  # a single image has no spread
        found = Estimate(value) if one else Estimate(value, max(0.0, value - half), min(1.0, value + half))
        metrics.append(Metric(slugify(name), name, SHARE, ACCURACY, *found))
    each = {name: float(ap) for name, ap in zip(images.classes, curves.mean((0, 1)), strict=True) if not np.isnan(ap)}
    return Measurement(by_slug(metrics), details={"COCO AP by class": each})


def pycocotools() -> tuple[Any, Any]:
    """Returns the classes COCO and COCOeval. Raises ImportError with the command that installs them."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("average precision needs pycocotools: pip install pycocotools") from error
    return COCO, COCOeval


def _averages(curves: np.ndarray) -> dict[str, float]:
    """Returns the metrics of curves (T, R, C), NaN for classes without objects; all NaN if no class has any."""
    named = {"COCO": curves, "VOC": curves[:, ::10]}
    present = ~np.isnan(curves[0, 0])
    return {
        f"{kind} {name}": float(part[..., present].mean()) if present.any() else float("nan")
        for kind, all_ in named.items()
        for name, part in (("AP", all_), ("AP50", all_[:1]), ("AP75", all_[5:6]))
    }


def _evaluated(images: DetectionSet, detections: Sequence[Detections]) -> Any:
    """Returns a COCOeval after `evaluate` and `accumulate`, for boxes of all sizes and 100 detections per image."""
    COCO, COCOeval = pycocotools()
    truth = [
        {**thing, "crowd": int(crowd), "iscrowd": int(crowd or difficult)}
        for index in range(len(images))
        for target in [images.target(index)]
        for thing, difficult, crowd in zip(
            _things(index, target.boxes, target.labels), target.difficult.tolist(), target.crowd.tolist(), strict=True
        )
    ]
    found = [
        {**thing, "score": score}
        for index, output in enumerate(detections)
        for thing, score in zip(_things(index, output.boxes, output.labels), output.scores.tolist(), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        tables = []
        for things in (truth, found):
            table = COCO()
            table.dataset = {
                "images": [{"id": index} for index in range(len(images))],
                "categories": [{"id": label} for label in range(len(images.classes))],
                # numbered from 1, because pycocotools uses 0 for no match
                "annotations": [{**thing, "id": number} for number, thing in enumerate(things, 1)],
            }
            table.createIndex()
            tables.append(table)
        evaluated = COCOeval(*tables, "bbox")
        evaluated.computeIoU = functools.partial(_overlaps, evaluated, evaluated.computeIoU)
        evaluated.params.areaRng, evaluated.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluated.params.maxDets = [100]
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated


def _overlaps(evaluated: Any, compute: Any, image: int, category: int) -> Any:
    """Uses plain IoU for VOC-difficult boxes, which are otherwise ignored as crowds are.

    For a crowd, COCO uses the share of the detection inside it.
    """
    objects = evaluated._gts[image, category]
    for thing in objects:
        thing["iscrowd"] = thing["crowd"]
    overlaps = compute(image, category)
    for thing in objects:
        thing["iscrowd"] = thing["ignore"]
    return overlaps


def _things(image: int, boxes: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Returns the boxes of one image in pycocotools' format: left, top, width and height."""
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double()
    return [
        {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for box, label in zip(sides.tolist(), labels.tolist(), strict=True)
    ]
