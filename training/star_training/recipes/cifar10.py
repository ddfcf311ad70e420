"""CIFAR-10 under small backbones, for a CPU."""

from dataclasses import replace

from star_catalog.tags import CIFAR10

from ..pretraining.recipe import DataConfig, Recipe
from ..settings.common import OptimizerConfig, RunConfig
from ._policy import default_policy


def cifar10_resnet10t() -> Recipe:
    """CIFAR-10 at 32 px under ResNet-10-T, for a CPU. Ours; no blur at this size, as SimCLR does on CIFAR.

    In bfloat16 where the CPU has it, which is twice as fast. Small batches at a high rate, as in `cifar10_small`: more
    steps for the same images.
    """
    return Recipe(
        name="cifar10_resnet10t",
        backbone="star_resnet10t",
        policy=default_policy(32, CIFAR10),
        data=DataConfig(source="torchvision:CIFAR10"),
        objective_args={"num_experts": 8},
        optimizer=OptimizerConfig(lr=0.24, warmup_epochs=0.5),
        epochs=10,
        batch_size=64,
    )


def cifar10_resnet10t_48px() -> Recipe:
    """Continues `cifar10_resnet10t` (`--init-from`) at 48 px; an epoch costs twice as much but raises accuracy more.

    Images of 32 px are seen larger: ResNet-10-T halves an image five times, made for 224 px. Both stages under `star`
    took 38 and 72 minutes of one core of an AMD EPYC and came to 20-NN 69.9 %, linear 73.0 %.
    """
    return replace(cifar10_resnet10t(), name="cifar10_resnet10t_48px", policy=default_policy(48, CIFAR10))


def cifar10_resnet10t_48px_more() -> Recipe:
    """Continues `cifar10_resnet10t_48px` (`--init-from`) or itself for 15 epochs with a new learning rate schedule.

    Under `star` 105 minutes of one core of an AMD EPYC. Done twice it made `star_resnet10t.cifar10`: 20-NN 72.0 %,
    linear 75.3 % (71.4 and 74.5 after the first time); under `simclr`, in 66 minutes, `star_resnet10t.cifar10_simclr`.
    """
    return replace(cifar10_resnet10t_48px(), name="cifar10_resnet10t_48px_more", epochs=15)


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
        policy=default_policy(32, CIFAR10),
        data=DataConfig(source="torchvision:CIFAR10"),
        objective_args={"num_experts": 8},
        optimizer=OptimizerConfig(lr=0.24, warmup_epochs=0.5),
        epochs=13,
        batch_size=64,
        precision="bf16",
        run=RunConfig(workers=0, log_every=50, checkpoint_every=1000, keep=100),  # all are kept: studies measure them
    )
