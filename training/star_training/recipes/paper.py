"""The paper's settings."""

from star_zoo import released

from ..pretraining.recipe import DataConfig, Recipe


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
        precision="no",
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
        precision="no",
    )
