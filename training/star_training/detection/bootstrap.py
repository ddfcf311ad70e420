"""Average precision over resampled images: what another draw of as many images might have given.

Matching detections to objects doesn't depend on the other images, so it is done once, by pycocotools; a resample only
weighs what each image adds to the precision curves.
Letters: N images, K classes, D detections of a class, T overlaps (0.50, 0.55 ... 0.95), R recalls (0, 0.01 ... 1).
"""

from typing import Any, NamedTuple

import numpy as np


class Matches(NamedTuple):
    """What pycocotools found out about one class, detections sorted by falling score."""

    image: np.ndarray  # (D,) int64: number of the image
    right: np.ndarray  # (T, D) bool: found an object
    wrong: np.ndarray  # (T, D) bool: found none; neither where the object was one to ignore
    objects: np.ndarray  # (N,) int64: objects of each image that ask to be found


def matches(evaluated: Any, images: int) -> list[Matches]:
    """By class, from a COCOeval whose images are numbered from 0, after `evaluate()` with one range of areas."""
    found = []
    for k in range(len(evaluated.params.catIds)):
        rows = [row for row in evaluated.evalImgs[k * images : (k + 1) * images] if row is not None]
        objects = np.zeros(images, np.int64)
        for row in rows:
            objects[row["image_id"]] = np.sum(np.logical_not(row["gtIgnore"]))
        matched, ignored = (
            np.concatenate([np.zeros((len(evaluated.params.iouThrs), 0), bool), *(row[name] for row in rows)], axis=1)
            for name in ("dtMatches", "dtIgnore")
        )
        images_of = [np.full(len(row["dtScores"]), row["image_id"]) for row in rows]
        image = np.concatenate([np.zeros(0, np.int64), *images_of])
        # stable, as pycocotools sorts
        order = np.argsort([-score for row in rows for score in row["dtScores"]], kind="mergesort").astype(np.int64)
        hit, counts = matched[:, order] > 0, np.logical_not(ignored[:, order])
        found.append(Matches(image[order], hit & counts, ~hit & counts, objects))
    return found


def precision(classes: list[Matches], weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Interpolated precision (T, R, K) with image n counted weights[n] times; NaN for a class without objects."""
    overlaps = len(classes[0].right)
    curves = np.full((overlaps, len(recalls), len(classes)), np.nan)
    for k, found in enumerate(classes):
        objects = found.objects @ weights
        if objects == 0:
            continue
        times = weights[found.image]
        right, wrong = np.cumsum(found.right * times, axis=1), np.cumsum(found.wrong * times, axis=1)
        share = right / np.maximum(right + wrong, np.finfo(float).eps)
        highest = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]  # at this recall or any above it
        for t in range(overlaps):
            place = np.searchsorted(right[t] / objects, recalls, side="left")
            curves[t, :, k] = np.append(highest[t], 0.0)[place]
    return curves
