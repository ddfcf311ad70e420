"""Our side: a real run of the SimCLR objective on the folder."""

from pathlib import Path
from typing import Any

from torch import Tensor

from star_catalog.tags import IMAGENET
from star_zoo import Policy
from star_zoo.augmentations import Blur, ColorJitter, Crop, Flip, Grayscale

from ...pretraining.recipe import DataConfig, Recipe
from ...pretraining.run import Run
from ...settings.common import OptimizerConfig, RunConfig
from ..pretrain.ours import Ours
from . import sizes
from .side import Side, shapes, trained
from .sizes import Size

_EPOCHS = 1000  # more than a benchmark reaches


def recipe(size: Size, images: Path, precision: str, workers: int) -> Recipe:
    """Returns the recipe of SimCLR with the common augmentations and optimiser."""
    operations = (
        Crop(size.pixels, scale=(sizes.MIN_SCALE, 1.0)),
        Flip(sizes.FLIP),
        ColorJitter(*sizes.JITTER, p=sizes.JITTER_P),
        Grayscale(sizes.GREY_P),
        Blur(sizes.BLUR_KERNEL, sizes.BLUR_SIGMA, sizes.BLUR_P),
    )
    return Recipe(
        name="peers",
        backbone=size.backbone,
        policy=Policy(operations, IMAGENET["mean"], IMAGENET["std"]),
        data=DataConfig(source=str(images)),
        objective="simclr",
        objective_args={"temperature": sizes.TEMPERATURE, "embed_dim": sizes.EMBED_DIM},
        optimizer=OptimizerConfig(
            name="momentum", lr=sizes.RATE, momentum=sizes.MOMENTUM, weight_decay=sizes.DECAY, decay_norms=True
        ),
        epochs=_EPOCHS,
        batch_size=size.batch,
        precision=precision,
        run=RunConfig(workers=workers, eval_every=0),
    )


class StarZoo(Side):
    """The steps of a `Run`, including the log entries that are due between them."""

    name = "star_zoo"

    def __init__(self, size: Size, images: Path, out: Path, precision: str, workers: int):
        super().__init__()
        sizes.register_backbones()
        self.run = Run(recipe(size, images, precision, workers), out)
        self.device = self.run.accelerator.device
        self.parameters = trained(self.run.module)
        self._ours = Ours(self.run)
        self.run.pretrainer.encoder.register_forward_pre_hook(self._see)

    def __enter__(self) -> "StarZoo":
        return self

    def __exit__(self, *error: object) -> None:
        self._ours.__exit__(None, None, None)

    def _see(self, encoder: Any, arguments: tuple[list[Tensor]]) -> None:
        self.views = shapes(arguments[0])

    def step(self) -> Tensor:
        return self._ours.step()
