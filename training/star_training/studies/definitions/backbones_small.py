"""SimCLR, EquiMod and STAR under four small backbones, on CIFAR-10: whether STAR's gain depends on the backbone."""

from ... import recipes
from ...settings.base import override
from ..study import Images, Measure, Method, Place, Study

_SETS = ("dtd10", "flowers17", "rsscn7", "signdigits")
_LENGTH = ("epochs=1", "precision=no", "optimizer.warmup_epochs=0.2", "run.eval_every=0", "run.keep=1")
# of networks with layer norm
_ADAMW = ("optimizer.name=adamw", "optimizer.weight_decay=0.05", "optimizer.decay_norms=false")
# the changes of a backbone to the recipe, whose ResNet-10-T of half the width has batch norm
_BACKBONES = {
    "": (),
    "_gn": ('backbone_args={"channels": [32, 64, 128, 256], "stem_width": 16, "norm_layer": "groupnorm1"}',),
    "_convnext": (
        "backbone=convnext_atto",
        'backbone_args={"patch_size": 2, "dims": [32, 64, 128, 256], "depths": [2, 2, 4, 2]}',
        *_ADAMW,
        "optimizer.lr=0.004",
    ),
    "_vit": (
        "backbone=vit_tiny_patch16_224",
        'backbone_args={"patch_size": 4, "img_size": 32, "embed_dim": 96, "depth": 4, "num_heads": 3}',
        *_ADAMW,
        "optimizer.lr=0.004",
    ),
}
_OBJECTIVES = ("simclr", "equimod", "star")
_LINEAR, _KNN, _R2 = "linear_accuracy", "knn20_top1", "r2_pair_features"


def backbones_small() -> Study:
    """Three objectives under a ResNet with batch norm, one with group norm, a ConvNeXt and a ViT: one epoch each.

    The paper has ResNets with batch norm alone. The ResNet with group norm has one group, because its narrowest layer
    has 16 channels. ViT and ConvNeXt are trained by AdamW with decoupled weight decay. SimCLR's 20-NN accuracy after
    400 steps differs by at most one point between the learning rates 0.002, 0.004 and, under the ConvNeXt, 0.008. The
    verdict is in hub_cards/backbones_small.
    """
    methods = tuple(
        Method(objective + backbone, objective, changes, seeds=3)
        for backbone, changes in _BACKBONES.items()
        for objective in _OBJECTIVES
    )
    pairs = tuple(
        (better + backbone, worse + backbone)
        for backbone in _BACKBONES
        for better, worse in (("star", "simclr"), ("star", "equimod"), ("equimod", "simclr"))
    )
    return Study(
        name="backbones_small",
        recipe=override(recipes.find("cifar10_small"), _LENGTH),
        images=Images("cifar10", "CIFAR10"),
        methods=methods,
        measures=(
            Measure("linear", _SETS),  # not on CIFAR-10, where it takes minutes with group norm
            Measure("knn", ("cifar10", *_SETS)),
            Measure("equivariance", ("cifar10",)),
        ),
        transfer=_SETS,
        pairs=pairs,
        headline=(
            Place(_KNN, "cifar10"),
            Place(_R2, "cifar10"),
            Place(_LINEAR),
            Place(_KNN),
        ),
        shown=(_LINEAR, _KNN, _R2),
        fast=("data.limit=6400",),
        fast_measures=(Measure("knn", ("cifar10", *_SETS)),),
    )
