"""Tiny ImageNet: whole, or a hundred of its classes beside CIFAR-100."""

from dataclasses import replace

from star_catalog.tags import TIN100, TINY_IMAGENET
from star_zoo.augmentations import Blur

from ..pretraining.recipe import DataConfig, Recipe
from ..settings.common import OptimizerConfig
from ._policy import default_policy
from .cifar10 import cifar10_resnet10t


def tin100_resnet10t() -> Recipe:
    """Tiny ImageNet's 100 classes and CIFAR-100 at 32 px under ResNet-10-T, for transfer: 45,000 images of 200 classes.

    `data.source` is a folder that holds both as Parquet files. As `cifar10_resnet10t` otherwise; 37 minutes of one core
    of an AMD EPYC.
    """
    return replace(
        cifar10_resnet10t(),
        name="tin100_resnet10t",
        policy=default_policy(32, TIN100),
        data=DataConfig(source="tin100"),
    )


def tin100_resnet10t_48px() -> Recipe:
    """Continues `tin100_resnet10t` (`--init-from`) at 48 px: five epochs, 31 minutes of one core of an AMD EPYC.

    Made `star_resnet10t.tin100`.
    """
    return replace(tin100_resnet10t(), name="tin100_resnet10t_48px", policy=default_policy(48, TIN100), epochs=5)


def tin100_resnet18() -> Recipe:
    """The images of `tin100_resnet10t` at 32 px under ResNet-18: five epochs, the start of `tin100_resnet18_64px`.

    25 minutes of two cores of an Intel Xeon, partly beside other work.
    """
    return replace(tin100_resnet10t(), name="tin100_resnet18", backbone="star_resnet18", epochs=5)


def tin100_resnet18_64px() -> Recipe:
    """Continues `tin100_resnet18` (`--init-from`) at 64 px: six epochs, 87 minutes of two cores of an Intel Xeon.

    Made `star_resnet18.tin100`.
    """
    return replace(tin100_resnet18(), name="tin100_resnet18_64px", policy=default_policy(64, TIN100), epochs=6)


def tin100_convnext_atto() -> Recipe:
    """The images of `tin100_resnet10t` at 64 px under ConvNeXt-Atto, by AdamW: six epochs.

    92 minutes of two cores of an AMD EPYC, partly beside other work. Made `star_convnext_atto.tin100`.
    """
    return replace(
        tin100_resnet10t(),
        name="tin100_convnext_atto",
        backbone="star_convnext_atto",
        backbone_args={},
        policy=default_policy(64, TIN100),
        optimizer=OptimizerConfig(name="adamw", lr=0.004, weight_decay=0.05, decay_norms=False, warmup_epochs=0.5),
        epochs=6,
    )


def tinyimagenet_resnet18() -> Recipe:
    """Tiny-ImageNet at 64 px under ResNet-18. Ours, not run to the end; meant for one GPU."""
    return Recipe(
        name="tinyimagenet_resnet18",
        backbone="star_resnet18",
        policy=default_policy(64, TINY_IMAGENET, Blur(5)),
        data=DataConfig(source="tiny-imagenet-200", hold_out=0.05),
        optimizer=OptimizerConfig(lr=0.06, warmup_epochs=5),
        epochs=200,
    )
