"""Equivariant backbones beside plain ones of equal size under `simclr` and `star`, on upright and turned images."""

from ... import recipes
from ..study import Images, Measure, Method, Place, Study

_STEM, _CHANNELS = [12, 16, 32], [32, 64, 128, 256]  # those of the recipe's plain backbone, at half of its usual width
_C4 = ("backbone=star_c4_resnet10t", f'backbone_args={{"stem": {_STEM}, "channels": {_CHANNELS}}}')
_UPRIGHT, _TURNED, _ANGLES = "upright", "c4_mean", "angles_mean"
_CLASSIFIERS = ("knn20_top1", "linear_top1")


def symmetry_small() -> Study:
    """A C4 backbone and a plain one of as many parameters under two objectives, by accuracy on turned images.

    With --fast, 400 steps each, twelve runs in about two hours of one core beside other work; the full form, thirteen
    epochs, was not run by us. Results: hub_cards/symmetry_small.
    """
    turned = tuple(
        f"rotated_{classifier}_{part}" for part in (_UPRIGHT, _TURNED, _ANGLES) for classifier in _CLASSIFIERS
    )
    return Study(
        name="symmetry_small",
        recipe=recipes.find("cifar10_small"),
        images=Images("cifar10", "CIFAR10"),
        methods=tuple(
            Method(f"{objective}{suffix}", objective, changes, seeds=3)
            for objective in ("simclr", "star")
            for suffix, changes in (("", ()), ("_c4", _C4))
        ),
        measures=(Measure("rotated", ("cifar10",)),),
        pairs=(("simclr_c4", "simclr"), ("star_c4", "star"), ("star", "simclr"), ("star_c4", "simclr_c4")),
        headline=tuple(Place(metric, "cifar10") for metric in turned),
        shown=turned,
        fast=("epochs=1", "data.limit=25600", "precision=no", "optimizer.warmup_epochs=0.1", "run.eval_every=0"),
        fast_measures=(Measure("rotated", ("cifar10",)),),
    )
