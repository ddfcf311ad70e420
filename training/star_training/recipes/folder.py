"""Your own images."""

from star_catalog.tags import IMAGENET
from star_zoo.augmentations import Blur

from ..pretraining.recipe import DataConfig, Recipe
from ..settings.common import OptimizerConfig
from ._policy import default_policy


def folder() -> Recipe:
    """Your own images: any folder, any timm backbone (`--set backbone=NAME`). Give it with `--data FOLDER`."""
    return Recipe(
        name="folder",
        backbone="star_resnet18",
        policy=default_policy(96, IMAGENET, Blur(9)),
        data=DataConfig(source="", hold_out=0.05),
        objective_args={"num_experts": 8},
        optimizer=OptimizerConfig(lr=0.06, warmup_epochs=1),
        epochs=100,
        batch_size=128,
    )
