"""Every objective that trains a backbone under one small recipe, on CIFAR-10."""

from star_zoo import objectives

from ... import recipes
from ..outcome import IMAGES_PER_SECOND, PEAK_MEMORY
from ..study import Images, Measure, Method, Place, Study

_SETS = ("caltech101", "dtd10", "flowers17", "rsscn7", "signdigits")
_FAST_SETS = _SETS[1:]  # Caltech101's linear classifier takes longer than the other four together
_CLASSES = ("objective_args.num_classes=10",)
# settings that the data set or the backbone determines; everything else is the objective's default
_CHANGES = {
    "explaining_away": _CLASSES,
    "inv_eq": _CLASSES,
    "star": ("objective_args.num_experts=8",),
    "supervised": _CLASSES,
    "transform_prediction": _CLASSES,
    "uniform": ("objective_args.num_experts=8",),
}
_NO_BACKBONE = "canonicalization"  # it trains none, so that all numbers would be those of the initial weights
# objectives on a group backbone would differ from the others in the backbone too, which the study keeps the same
_NAMES = tuple(name for name in objectives.known() if name != _NO_BACKBONE and not objectives.find(name).needs_group)
_LINEAR, _KNN, _R2 = "linear_accuracy", "knn20_top1", "r2_pair_features"


def methods_small() -> Study:
    """Every objective that trains the backbone, for the same steps on CIFAR-10 under a small backbone, in one table.

    Objectives that need a group backbone are not part of it, because all methods have the same backbone. With --fast,
    300 steps each; the full form, thirteen epochs, was not run by us.
    """
    return Study(
        name="methods_small",
        recipe=recipes.find("cifar10_small"),
        images=Images("cifar10", "CIFAR10"),
        methods=tuple(Method(name, name, _CHANGES.get(name, ())) for name in _NAMES),
        measures=(
            Measure("linear", ("cifar10", "cifar100", *_SETS)),
            Measure("knn", ("cifar10", "cifar100", *_SETS)),
            Measure("equivariance", ("cifar10",)),
        ),
        transfer=("cifar100", *_SETS),
        pairs=tuple((name, "simclr") for name in _NAMES if name != "simclr"),
        headline=(
            Place(_LINEAR, "cifar10"),
            Place(_KNN, "cifar10"),
            Place(_R2, "cifar10"),
            Place(_LINEAR),
            Place(_KNN),
            Place(IMAGES_PER_SECOND, ""),
            Place(PEAK_MEMORY, ""),
        ),
        shown=(_LINEAR, _KNN, _R2, IMAGES_PER_SECOND, PEAK_MEMORY),
        fast=("epochs=1", "data.limit=19200", "precision=no", "optimizer.warmup_epochs=0.1", "run.eval_every=0"),
        fast_measures=(
            Measure("linear", ("cifar10", *_FAST_SETS)),
            Measure("knn", ("cifar10", *_FAST_SETS)),
            Measure("equivariance", ("cifar10",)),
        ),
    )
