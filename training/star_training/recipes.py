"""Recipes: one function each, giving a Recipe; `star-zoo pretrain NAME` runs it.

Each says its source and its cost. A new recipe is a new public function here.
"""

from dataclasses import replace

from star_zoo import Policy, released
from star_zoo.augmentations import Augmentation, Blur, ColorJitter, Crop, Flip, Grayscale, Spirograph
from star_zoo.star_backbones import CIFAR10, IMAGENET, TIN100, TINY_IMAGENET

from .pretraining.recipe import DataConfig, Recipe
from .settings import registry as named
from .settings.common import OptimizerConfig, RunConfig


def _policy(size: int, pixels: dict[str, tuple[float, float, float]], *extra: Augmentation) -> Policy:
    """Our default policy: the crop told in fractions, so that it serves images of any size; torchvision's colours."""
    return Policy((Crop(size), Flip(), ColorJitter(), Grayscale(), *extra), pixels["mean"], pixels["std"])


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


def cifar10_resnet10t() -> Recipe:
    """CIFAR-10 at 32 px under ResNet-10-T, for a CPU. Ours; no blur at this size, as SimCLR does on CIFAR.

    In bfloat16, which is twice as fast on a CPU that has it; `--set precision=no` where it is slow. Small batches at a
    high rate, as in `cifar10_small`: more steps for the same images.
    """
    return Recipe(
        name="cifar10_resnet10t",
        backbone="star_resnet10t",
        policy=_policy(32, CIFAR10),
        data=DataConfig(source="torchvision:CIFAR10"),
        objective_args={"num_experts": 8},
        optimizer=OptimizerConfig(lr=0.24, warmup_epochs=0.5),
        epochs=10,
        batch_size=64,
        precision="bf16",
    )


def cifar10_resnet10t_48px() -> Recipe:
    """Goes on from `cifar10_resnet10t` (`--init-from`) at 48 px, where an epoch costs twice as much and teaches more.

    Images of 32 px are seen larger: ResNet-10-T halves an image five times, made for 224 px. Both stages under `star`
    took 38 and 72 minutes of one core of an AMD EPYC and came to 20-NN 69.9 %, linear 73.0 %.
    """
    return replace(cifar10_resnet10t(), name="cifar10_resnet10t_48px", policy=_policy(48, CIFAR10))


def cifar10_resnet10t_48px_more() -> Recipe:
    """Goes on from `cifar10_resnet10t_48px` (`--init-from`) or from itself: fifteen epochs more, the rate raised again.

    Under `star` 105 minutes of one core of an AMD EPYC. Done twice it made `star_resnet10t.cifar10`: 20-NN 72.0 %,
    linear 75.3 % (71.4 and 74.5 after the first time); under `simclr`, in 66 minutes, `star_resnet10t.cifar10_simclr`.
    """
    return replace(cifar10_resnet10t_48px(), name="cifar10_resnet10t_48px_more", epochs=15)


def tin100_resnet10t() -> Recipe:
    """Tiny ImageNet's 100 classes and CIFAR-100 at 32 px under ResNet-10-T, for transfer: 45,000 images of 200 classes.

    `data.source` is a folder that holds both as Parquet files. As `cifar10_resnet10t` otherwise; 37 minutes of one core
    of an AMD EPYC.
    """
    return replace(
        cifar10_resnet10t(),
        name="tin100_resnet10t",
        policy=_policy(32, TIN100),
        data=DataConfig(source="tin100"),
    )


def tin100_resnet10t_48px() -> Recipe:
    """Goes on from `tin100_resnet10t` (`--init-from`) at 48 px: five epochs, 31 minutes of one core of an AMD EPYC.

    Made `star_resnet10t.tin100`.
    """
    return replace(tin100_resnet10t(), name="tin100_resnet10t_48px", policy=_policy(48, TIN100), epochs=5)


def cifar10_small() -> Recipe:
    """CIFAR-10 at 32 px under a ResNet-10-T of half the width, for studies on a CPU: ten thousand steps in minutes.

    Chosen in a short search, `star` in batches of 128 for five minutes of one core each, by 20-NN accuracy of 2,000
    test images: this backbone 51.2 % (six epochs), at 48 px 49.8, timm's test_resnet 49.2, ResNet-10-T 45.8; then of
    learning rates 0.06, 0.12 and 0.24: 48.5, 51.2 and 51.6.
    """
    return Recipe(
        name="cifar10_small",
        backbone="star_resnet10t",
        backbone_args={"channels": [32, 64, 128, 256], "stem_width": 16},
        policy=_policy(32, CIFAR10),
        data=DataConfig(source="torchvision:CIFAR10"),
        objective_args={"num_experts": 8},
        optimizer=OptimizerConfig(lr=0.24, warmup_epochs=0.5),
        epochs=13,
        batch_size=64,
        precision="bf16",
        run=RunConfig(workers=0, log_every=50, checkpoint_every=1000, keep=100),  # all are kept: studies measure them
    )


def tinyimagenet_resnet18() -> Recipe:
    """Tiny-ImageNet at 64 px under ResNet-18. Ours, not run to the end; meant for one GPU."""
    return Recipe(
        name="tinyimagenet_resnet18",
        backbone="star_resnet18",
        policy=_policy(64, TINY_IMAGENET, Blur(5)),
        data=DataConfig(source="tiny-imagenet-200", hold_out=0.05),
        optimizer=OptimizerConfig(lr=0.06, warmup_epochs=5),
        epochs=200,
        precision="bf16",
    )


def stl10_resnet18() -> Recipe:
    """The paper's STL-10 setting: ResNet-18 at 96 px, 16 experts, 200 epochs of 105,000 images. Not run by us.

    Source: the released scripts; SGD 0.03 for 256 images, weight decay on everything, float32. Three differences: the
    cosine falls with every step instead of every epoch, the colour operations keep one order, and the convolutions
    start from timm's initialisation.
    """
    return Recipe(
        name="stl10_resnet18",
        backbone="star_resnet18",
        policy=released.policy("stl10"),
        data=DataConfig(source="torchvision:STL10", bank="labeled"),  # trains on the unlabelled images too
        objective_args={"num_experts": 16},
        epochs=200,
        run=RunConfig(workers=8),
    )


def in100_resnet50() -> Recipe:
    """The paper's ImageNet-100 setting: ResNet-50 at 224 px, 8 experts, 500 epochs. Not run by us.

    `data.source` is a folder with train/ and val/ of the 100 classes. Source: the released scripts (four GPUs, 64
    images each); the differences are those of `stl10_resnet18`.
    """
    return Recipe(
        name="in100_resnet50",
        backbone="star_resnet50",
        policy=released.policy("imagenet100"),
        data=DataConfig(source="imagenet100"),
        objective_args={"num_experts": 8},
        epochs=500,
        run=RunConfig(workers=12),
    )


def folder() -> Recipe:
    """Your own images: any folder, any timm backbone (`--set backbone=NAME`). Give it with `--data FOLDER`."""
    return Recipe(
        name="folder",
        backbone="star_resnet18",
        policy=_policy(96, IMAGENET, Blur(9)),
        data=DataConfig(source="images", hold_out=0.05),
        objective_args={"num_experts": 8},
        optimizer=OptimizerConfig(lr=0.06, warmup_epochs=1),
        epochs=100,
        batch_size=128,
    )


def known() -> dict[str, str]:
    """The recipes by name, each with the first line of its docstring."""
    return named.known(__name__)


def find(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError for an unknown one, listing the known ones."""
    return named.find(__name__, "recipe", name)()
