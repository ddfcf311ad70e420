"""Three policies that teach different invariances, the fusion of their models, and one model as wide, on CIFAR-10."""

from ... import recipes
from ...settings.base import override
from ..outcome import IMAGES_PER_SECOND
from ..study import MEAN, Fusion, Images, Measure, Method, Place, Study
from .invariances import accuracies, cosines, pairs_by_image

_SETS = ("dtd10", "flowers17", "rsscn7", "signdigits")  # without Caltech101, whose linear classifier is slow
_POLICIES = ("default", "ventral", "dorsal")
_LINEAR, _KNN = "linear_accuracy", "knn20_top1"
_GROUPS = ("crop", "spatial", "colour", "detail")
# As many features as the fusion, by a last stage three times as wide. All stages three times as wide would cost about
# nine times the arithmetic of one model of the fusion, three times that of the whole fusion.
_WIDE = "backbone_args.channels=[32,64,128,768]"
_SHORT = ("epochs=1", "data.limit=19200", "precision=no", "optimizer.warmup_epochs=0.1", "run.eval_every=0")


def invariances_small() -> Study:
    """Which data set needs which invariance: SimCLR under three policies, their fusion, and a model of its width.

    300 steps each. The fusion has the features of the three models side by side; the wide model, trained under the
    default policy, is the control for their number. After Ericsson, Gouk & Hospedales (arXiv 2111.11398), whose
    models and data sets are larger. All numbers: hub_cards/invariances_small/table.md; README.md judges them.
    """
    return Study(
        name="invariances_small",
        recipe=override(recipes.find("cifar10_small"), _SHORT),
        images=Images("cifar10", "CIFAR10"),
        methods=(
            *(Method(name, "simclr", (f"policy={name}",), seeds=2) for name in _POLICIES),
            Method("wide", "simclr", ("policy=default", _WIDE), seeds=2),
        ),
        fusions=(Fusion("fusion", _POLICIES, seeds=2),),
        measures=(
            Measure("linear", _SETS),
            Measure("knn", ("cifar10", *_SETS)),
            Measure("invariance", ("cifar10",)),
        ),
        transfer=_SETS,
        pairs=(("dorsal", "ventral"), ("fusion", "default"), ("fusion", "wide"), ("wide", "default")),
        headline=(
            Place(_KNN, "cifar10"),
            Place(_LINEAR, MEAN),
            Place(_KNN, MEAN),
            Place("cosine_crop", "cifar10"),
            Place("cosine_colour", "cifar10"),
            Place(IMAGES_PER_SECOND, ""),
        ),
        shown=(_LINEAR, _KNN, *(f"{kind}_{group}" for kind in ("cosine", "mahalanobis") for group in _GROUPS)),
        tables=(accuracies, cosines, pairs_by_image),
        fast=("data.limit=1280",),
        fast_measures=(Measure("linear", ("signdigits",)), Measure("knn", ("signdigits",))),
    )
