"""SimCLR, EquiMod and STAR continued from ImageNet weights on a few thousand images of five data sets, at 96 px."""

from ... import recipes
from ...settings.base import override
from ..study import Images, Measure, Method, Place, Start, Study

_SETS = ("caltech101", "dtd10", "flowers17", "rsscn7", "signdigits")  # of the pretraining images
_NOVEL = "tinyimagenet_novel100"
_RECIPE = (
    "backbone=tf_efficientnet_lite0",
    "policy=default",
    "policy.mean=[0.5,0.5,0.5]",  # as the weights were trained
    "policy.std=[0.5,0.5,0.5]",
    "freeze_norms=true",
    "epochs=2",
    "precision=no",
    "channels_last=true",
    "optimizer.lr=0.001",
    "optimizer.warmup_epochs=0.2",
    "run.eval_every=0",
    "run.keep=1",
)
_TRAINED, _HIGH = ("freeze_norms=false",), "optimizer.lr=0.01"
_NAMES = ("simclr", "equimod", "star")
_LINEAR, _KNN, _R2, _FEW = "linear_accuracy", "knn20_top1", "r2_pair_features", "fewshot_5way_5shot"


def continued_small() -> Study:
    """Three objectives continued from ImageNet weights of EfficientNet-Lite0 on five small data sets: gains and losses.

    The images are the training images of the five transfer sets, without labels, in the folder `transfer96`. The start
    is the folder `lite0`, which the guide makes from a package, measured at the same 96 px. Batch norm keeps the
    statistics of the start, but for two controls: `star_norms` trains them as usual, and `norms` trains nothing else.
    `_high` has ten times the learning rate. The verdict is in hub_cards/continued_small.
    """
    return Study(
        name="continued_small",
        recipe=override(recipes.find("folder"), _RECIPE),
        images=Images("transfer96"),
        start=Start("start", "lite0"),
        methods=(
            *(Method(name, name, seeds=3) for name in _NAMES),
            Method("star_norms", "star", _TRAINED),
            Method("norms", "simclr", (*_TRAINED, "optimizer.lr=0", "epochs=1")),
            *(Method(f"{name}_high", name, (_HIGH,)) for name in ("simclr", "star")),
        ),
        measures=(
            Measure("linear", _SETS),
            Measure("knn", _SETS),
            Measure("few_shot", (_NOVEL,)),
            Measure("equivariance", ("caltech101",)),
        ),
        transfer=_SETS,
        pairs=(
            *((name, "start") for name in (*_NAMES, "star_norms", "norms", "simclr_high", "star_high")),
            ("star", "simclr"),
            ("star", "equimod"),
            ("equimod", "simclr"),
        ),
        headline=(
            Place(_LINEAR),
            Place(_KNN),
            Place(_FEW, _NOVEL),
            Place(_R2, "caltech101"),
        ),
        shown=(_LINEAR, _KNN, _FEW, _R2),
        fast=("data.limit=640",),
        fast_measures=(Measure("knn", ("dtd10", "signdigits")),),
    )
