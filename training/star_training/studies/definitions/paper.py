"""The paper's settings, for GPUs."""

from ... import recipes
from ...pretraining.recipe import Recipe
from ..study import Images, Measure, Method, Study
from .claims import SHOWN, claims, headline, pairs

_PAPER = (
    "caltech101", "cifar10", "cifar100", "food101", "mit67", "pets", "flowers", "cars", "aircraft", "dtd", "sun397",
)  # fmt: skip


def stl10_paper() -> Study:
    """The paper's STL-10 setting with its methods and eleven transfer sets, for a GPU. Not run by us.

    About 5,000 images a second on one A100 as README.md estimates: 1.2 hours a run on one GPU, 0.3 on four, 0.2 on
    eight, twelve runs; linear evaluation is extra. It needs stl10/ in torchvision's layout, and the transfer
    sets by their names, each as `star-zoo eval` takes NAME@ROOT.
    """
    return _paper("stl10_paper", recipes.find("stl10_resnet18"), Images("stl10", "STL10"), experts=(4, 8, 16))


def in100_paper() -> Study:
    """The paper's ImageNet-100 setting with its methods and eleven transfer sets, for GPUs. Not run by us.

    As README.md estimates from A100s: 22 hours a run on one GPU, 6 on four, 3.2 on eight, twelve runs. It wants
    imagenet100/ with train/ and val/ of the hundred classes alone, and the transfer sets by their names.
    """
    return _paper("in100_paper", recipes.find("in100_resnet50"), Images("imagenet100"), experts=(2, 4, 8))


def _paper(name: str, recipe: Recipe, images: Images, experts: tuple[int, ...]) -> Study:
    """Returns the paper's study, with two controls added: heads as large as STAR's, experts without routing."""
    few, some, many = experts
    shots = (
        ("fewshot_fc100_5way_5shot", "cifar100"),
        ("fewshot_5way_5shot", "cifar100"),
    )  # by classes where the file has them
    width = {16: 1880, 8: 4896}[many]  # two heads with as many weights as so many experts: 9.5 and 69.3 million
    return Study(
        name=name,
        recipe=recipe,
        images=images,
        methods=(
            Method("simclr", "simclr", seeds=3),
            Method("equimod", "equimod", seeds=3),
            Method("equimod_wide", "equimod", (f"objective_args.hidden={width}",)),
            Method("star_ss", "star_ss"),
            *(Method(f"star_{n}", "star", (f"objective_args.num_experts={n}",)) for n in (few, some)),
            Method(f"star_{many}", "star", seeds=3),
            Method(f"uniform_{many}", "uniform"),
        ),
        measures=(
            Measure("linear", (images.name, *_PAPER)),
            Measure("knn", (images.name, *_PAPER)),
            Measure("few_shot", ("cifar100",)),
            *(Measure(protocol, (images.name,)) for protocol in ("redundancy", "equivariance", "routing")),
        ),
        transfer=_PAPER,
        pairs=pairs(f"star_{many}"),
        headline=headline(images.name),
        shown=SHOWN,
        claims=claims(f"star_{many}", (f"star_{few}", f"star_{many}"), images.name, shots),
        fast=("epochs=1", "data.limit=64", "batch_size=16", "backbone=star_resnet10t", "run.workers=0"),
        fast_measures=(Measure("knn", (images.name,)), Measure("linear", ("dtd", "flowers"))),
    )
