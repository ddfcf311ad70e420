"""Studies: one function each, giving a Study; `star-zoo reproduce NAME` runs it.

A docstring's first line says what is compared, then the cost and what came out. A new study is a new public function.
"""

from .. import recipes
from ..pretraining.recipe import Recipe
from ..settings import registry as named
from .study import Claim, Comparison, Images, Measure, Method, Place, Study

_LINEAR, _KNN = "Linear accuracy", "20-NN top-1"
_CCA = "mean canonical correlation of z_inv and z_eq"
_SVCCA = "mean SVCCA correlation of z_inv and z_eq"
_OVERLAP = "overlap of the tasks' mean weights"
_SPECIALISED = "same class among neighbours, by the invariant task's expert less by the equivariant task's"
_KNOWN, _FOUND = "R2, pair, features", "MRR, own predictor, recalibrated"
_CLOSING = "equivariant loss, mean of all steps"
_SHOWN = (
    _LINEAR,
    _KNN,
    "CIFAR-FS 5-way 5-shot",
    "FC100 5-way 5-shot",
    "5-way 5-shot",
    _CCA,
    _SVCCA,
    "RankMe of z_inv",
    "RankMe of z_eq",
    _KNOWN,
    _FOUND,
    "MRR, fitted predictor, features",
    _OVERLAP,
    _SPECIALISED,
    "invariant loss, mean of all steps",
    _CLOSING,
)
_PAPER = (
    "caltech101", "cifar10", "cifar100", "food101", "mit67", "pets", "flowers", "cars", "aircraft", "dtd", "sun397",
)  # fmt: skip


def cifar10_small() -> Study:
    """Eight methods at ten thousand steps on CIFAR-10 under a small backbone: what a CPU can tell of the claims.

    Twenty runs of 8 to 24 minutes on one core of an AMD EPYC each, beside other work: 4.7 hours, and 2 to 8 minutes a
    run to measure. EquiMod and STAR transfer far better than SimCLR; STAR is ahead of EquiMod, by little (0.9 % [0.5,
    1.3] in linear evaluation of the transfer sets), and not told apart from an EquiMod with heads as large; its
    embeddings share more than EquiMod's, not less, if by little against heads as large and by SVCCA. All numbers:
    hub_cards/cifar10_small/table.md; README.md judges the claims by them.
    """
    small = ("caltech101", "dtd10", "flowers17", "rsscn7", "signdigits")
    transfer = ("cifar100", *small)
    return Study(
        name="cifar10_small",
        recipe=recipes.cifar10_small(),
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
        pairs=_pairs("star_8"),
        headline=_headline("cifar10"),
        shown=_SHOWN,
        claims=_claims(
            "star_8",
            ("star_4", "star_16"),
            "cifar10",
            (("CIFAR-FS 5-way 5-shot", "cifar100"), ("5-way 5-shot", "tinyimagenet_novel100")),
        ),
        fast=("epochs=1", "data.limit=10000"),
        fast_measures=(
            Measure("linear", small),
            Measure("knn", ("cifar10", *small)),
            *(Measure(protocol, ("cifar10",)) for protocol in ("redundancy", "routing")),
        ),
    )


def stl10_paper() -> Study:
    """The paper's STL-10 setting with its methods and eleven transfer sets, for a GPU. Not run by us.

    About 5,000 images a second on one A100 as README.md estimates: 1.2 hours a run on one GPU, 0.3 on four, 0.2 on
    eight, twelve runs; linear evaluation comes to that. It wants stl10/ as torchvision lays it out, and the transfer
    sets by their names, each as `star-zoo eval` takes NAME@ROOT.
    """
    return _paper("stl10_paper", recipes.stl10_resnet18(), Images("stl10", "STL10"), experts=(4, 8, 16))


def in100_paper() -> Study:
    """The paper's ImageNet-100 setting with its methods and eleven transfer sets, for GPUs. Not run by us.

    As README.md estimates from A100s: 22 hours a run on one GPU, 6 on four, 3.2 on eight, twelve runs. It wants
    imagenet100/ with train/ and val/ of the hundred classes alone, and the transfer sets by their names.
    """
    return _paper("in100_paper", recipes.in100_resnet50(), Images("imagenet100"), experts=(2, 4, 8))


def _paper(name: str, recipe: Recipe, images: Images, experts: tuple[int, ...]) -> Study:
    """The paper's table, with the controls that it lacks: heads as large as STAR's, and experts without routing."""
    few, some, many = experts
    shots = (("FC100 5-way 5-shot", "cifar100"), ("5-way 5-shot", "cifar100"))  # by classes where the file has them
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
        pairs=_pairs(f"star_{many}"),
        headline=_headline(images.name),
        shown=_SHOWN,
        claims=_claims(f"star_{many}", (f"star_{few}", f"star_{many}"), images.name, shots),
        fast=("epochs=1", "data.limit=64", "batch_size=16", "backbone=star_resnet10t", "run.workers=0"),
        fast_measures=(Measure("knn", (images.name,)), Measure("linear", ("dtd", "flowers"))),
    )


def _headline(at: str) -> tuple[Place, ...]:
    on_all = (Place(_LINEAR), Place(_KNN))
    return *(Place(metric, at) for metric in (_LINEAR, _KNN)), *on_all, Place(_CCA, at), Place(_KNOWN, at)


def _pairs(star: str) -> tuple[tuple[str, str], ...]:
    return (star, "equimod"), (star, "equimod_wide"), (star, "simclr"), ("equimod", "simclr")


def _claims(star: str, experts: tuple[str, str], at: str, shots: tuple[tuple[str, str], ...]) -> tuple[Claim, ...]:
    """The paper's claims, for a study whose methods are called as in `cifar10_small`: `star` is the STAR to compare,
    `experts` those with the fewest and the most, `at` the pretraining images, `shots` few-shot metrics with their data.

    They are numbered as in our notes on the paper; what each means in numbers is ours.
    """
    fewest, most = experts
    return (
        Claim(
            "C1",
            "STAR transfers better than EquiMod, EquiMod better than SimCLR",
            (
                Comparison(star, "equimod", _LINEAR),
                Comparison("equimod", "simclr", _LINEAR),
                Comparison(star, "equimod_wide", _LINEAR),
            ),
            "the wide EquiMod is no part of the paper's claim: it has as many weights in its heads as STAR",
        ),
        Claim("C2", "the same for ResNet-50 on ImageNet-100", note="C1 of the study in100_paper"),
        Claim(
            "C3",
            "STAR-SS lies between EquiMod and STAR",
            (Comparison("star_ss", "equimod", _LINEAR), Comparison(star, "star_ss", _LINEAR)),
            "expected, the paper doesn't state it",
        ),
        Claim(
            "C4",
            "z_inv and z_eq are less correlated than EquiMod's",
            tuple(
                Comparison(star, other, metric, at, lower=True)
                for other in ("equimod", "equimod_wide")
                for metric in (_CCA, _SVCCA)
            ),
            "SVCCA leaves out the directions with the last 1 % of variance; which of both the paper took is not known, "
            "and the wide EquiMod is no part of its claim",
        ),
        Claim(
            "C5",
            "with more experts the correlation falls and accuracy rises",
            (Comparison(most, fewest, _CCA, at, lower=True), Comparison(most, fewest, _LINEAR)),
        ),
        Claim(
            "C6",
            "few-shot classification and detection gain",
            tuple(Comparison(star, "equimod", metric, data) for metric, data in shots),
            "detection is not part of the study",
        ),
        Claim(
            "C7",
            "features and predictor are more equivariant than EquiMod's and SimCLR's",
            (
                Comparison(star, "equimod", _KNOWN, at),
                Comparison(star, "simclr", _KNOWN, at),
                Comparison(star, "equimod", _FOUND, at),
            ),
            "by R2 of the augmentation's parameters and by MRR, for the paper's formulas are not known",
        ),
        Claim(
            "C8",
            "the routers specialise: experts of one task beside shared ones",
            (Comparison(star, "", _OVERLAP, at, lower=True, than=1.0), Comparison(star, "", _OVERLAP, at)),
            "without routing the overlap is 1, with a head for each task 0",
        ),
        Claim(
            "C9",
            "the heads converge faster",
            tuple(Comparison(star, other, _CLOSING, "", lower=True) for other in ("equimod", "equimod_wide")),
            "by the mean of the equivariant loss over all steps, for the paper's measure is not known",
        ),
        Claim(
            "C10",
            "retrieval differs by expert: those of the invariant task find the same class",
            (Comparison(star, "", _SPECIALISED, at),),
            "of the experts that each task weighs most, by images of the same class among 8 neighbours",
        ),
    )


def known() -> dict[str, str]:
    """The studies by name, each with the first line of its docstring."""
    return named.known(__name__)


def find(name: str) -> Study:
    """The study of that name. Raises ValueError for an unknown one, listing the known ones."""
    return named.find(__name__, "study", name)()
