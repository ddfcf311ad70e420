"""Claims that small runs on a CPU can test, on CIFAR-10."""

from ... import recipes
from ..study import Images, Measure, Method, Study
from .claims import SHOWN, claims, headline, pairs


def cifar10_small() -> Study:
    """Eight methods at ten thousand steps on CIFAR-10 under a small backbone: the claims that a CPU can test.

    Twenty runs of 8 to 24 minutes on one core of an AMD EPYC each, beside other work: 4.7 hours, and 2 to 8 minutes a
    run to measure. EquiMod and STAR transfer far better than SimCLR; STAR is ahead of EquiMod by 0.9 points
    [0.5, 1.3] in linear evaluation of the transfer sets, and not distinguished from an EquiMod with heads as large. Its
    embeddings share more than EquiMod's, not less; the difference is small against heads as large and by SVCCA. All
    numbers: hub_cards/cifar10_small/table.md; README.md judges the claims by them.
    """
    small = ("caltech101", "dtd10", "flowers17", "rsscn7", "signdigits")
    transfer = ("cifar100", *small)
    return Study(
        name="cifar10_small",
        recipe=recipes.find("cifar10_small"),
        images=Images("cifar10", "CIFAR10"),
        methods=(
            Method("simclr", "simclr", seeds=3),
            Method("equimod", "equimod", seeds=5),
            # the hidden width at which two heads have as many weights as eight experts of width 256: 1.32 million
            Method("equimod_wide", "equimod", ("objective_args.hidden=640",), seeds=3),
            Method("star_ss", "star_ss"),
            Method("star_4", "star", ("objective_args.num_experts=4",)),
            Method("star_8", "star", seeds=5),
            Method("star_16", "star", ("objective_args.num_experts=16",)),
            Method("uniform_8", "uniform"),
        ),
        measures=(
            Measure("linear", ("cifar10", *transfer)),
            Measure("knn", ("cifar10", *transfer)),
            Measure("few_shot", ("cifar100", "tinyimagenet_novel100")),
            *(Measure(protocol, ("cifar10",)) for protocol in ("redundancy", "equivariance", "routing")),
        ),
        transfer=transfer,
        steps=(1000, 2000, 4000, 7000, 10_000),
        transfer_over_steps=small,
        pairs=pairs("star_8"),
        headline=headline("cifar10"),
        shown=SHOWN,
        claims=claims(
            "star_8",
            ("star_4", "star_16"),
            "cifar10",
            (("fewshot_cifar_fs_5way_5shot", "cifar100"), ("fewshot_5way_5shot", "tinyimagenet_novel100")),
        ),
        fast=("epochs=1", "data.limit=10000", "precision=no"),
        fast_measures=(
            Measure("linear", small),
            Measure("knn", ("cifar10", *small)),
            *(Measure(protocol, ("cifar10",)) for protocol in ("redundancy", "routing")),
        ),
    )
