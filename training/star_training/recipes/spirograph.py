"""Spirographs, rendered as they are needed."""

from star_zoo import Policy
from star_zoo.augmentations import Spirograph

from ..pretraining.recipe import DataConfig, Recipe
from ..settings.common import OptimizerConfig


def spirograph_tiny() -> Recipe:
    """The quickstart: spirographs, rendered as they are needed, under a small backbone. No download.

    Rendering is the augmentation: views of one object differ in ring and colours (Foster et al., ICLR 2021).
    """
    return Recipe(
        name="spirograph_tiny",
        backbone="star_resnet10t",
        policy=Policy((Spirograph(32),), (0.34, 0.36, 0.35), (0.185, 0.185, 0.185)),
        data=DataConfig(source="spirograph:6400"),
        objective_args={"num_experts": 4, "hidden": 128},
        optimizer=OptimizerConfig(name="adamw", lr=2e-3, weight_decay=1e-4),
        epochs=2,
        batch_size=64,
    )
