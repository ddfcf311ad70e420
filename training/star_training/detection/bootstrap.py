"""Average precision over bootstrap resamples of the images.

Matching detections to objects doesn't depend on the other images, so pycocotools does it once; a resample only
reweights each image's contribution to the precision curves.
Letters: N images, K classes, D detections of a class, T IoU thresholds (0.50 ... 0.95), R recalls (0, 0.01 ... 1).
"""

from typing import Any, NamedTuple

import numpy as np


class Matches(NamedTuple):
    """The matches of one class by pycocotools, detections sorted by descending score."""

    image: np.ndarray  # (D,) int64: number of the image
    right: np.ndarray  # (T, D) bool: matches an object
    wrong: np.ndarray  # (T, D) bool: matches none; neither is true if the object is ignored
    objects: np.ndarray  # (N,) int64: objects of each image that are not ignored


def matches(evaluated: Any, images: int) -> list[Matches]:
    """Returns the matches by class of a COCOeval with images numbered from 0, after `evaluate` with one area range."""
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
    """Returns interpolated precision (T, R, K), image n counted weights[n] times; NaN for a class without objects."""
    overlaps = len(classes[0].right)
    curves = np.full((overlaps, len(recalls), len(classes)), np.nan)
    for k, found in enumerate(classes):
        objects = found.objects @ weights
        if objects == 0:
            continue
        times = weights[found.image]
        right, wrong = np.cumsum(found.right * times, axis=1), np.cumsum(found.wrong * times, axis=1)
        share = right / np.maximum(right + wrong, np.finfo(float).eps)
        highest = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]  # at this recall or above
        for t in range(overlaps):
            place = np.searchsorted(right[t] / objects, recalls, side="left")
            curves[t, :, k] = np.append(highest[t], 0.0)[place]
    return curves
