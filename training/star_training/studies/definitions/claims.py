"""The claims of the paper in numbers, with the pairs of methods and the metrics that the studies' tables show."""

from ..study import Claim, Comparison, Place

_LINEAR, _KNN = "linear_accuracy", "knn20_top1"  # slugs of metrics
_CCA, _SVCCA = "cca", "svcca"
_OVERLAP, _SPECIALISED = "overlap", "same_class_difference"
_KNOWN, _FOUND = "r2_pair_features", "mrr_own_recalibrated"
_CLOSING = "equivariant_loss"
SHOWN = (
    _LINEAR,
    _KNN,
    "fewshot_cifar_fs_5way_5shot",
    "fewshot_fc100_5way_5shot",
    "fewshot_5way_5shot",
    _CCA,
    _SVCCA,
    "rankme_z_inv",
    "rankme_z_eq",
    _KNOWN,
    _FOUND,
    "mrr_fitted_features",
    _OVERLAP,
    _SPECIALISED,
    "invariant_loss",
    _CLOSING,
)


def headline(at: str) -> tuple[Place, ...]:
    """Returns the numbers of a study's first table; `at` is the set of its pretraining images."""
    on_all = (Place(_LINEAR), Place(_KNN))
    return *(Place(metric, at) for metric in (_LINEAR, _KNN)), *on_all, Place(_CCA, at), Place(_KNOWN, at)


def pairs(star: str) -> tuple[tuple[str, str], ...]:
    """Returns the methods whose differences a study reports; `star` is the STAR to compare."""
    return (star, "equimod"), (star, "equimod_wide"), (star, "simclr"), ("equimod", "simclr")


def claims(star: str, experts: tuple[str, str], at: str, shots: tuple[tuple[str, str], ...]) -> tuple[Claim, ...]:
    """Returns the paper's claims for a study with the method names of `cifar10_small`: `star` is the STAR to compare,
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
            "SVCCA leaves out the directions with the last 1 % of variance; it is unknown which one the paper used, "
            "and its claim doesn't cover the wide EquiMod",
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
            "by R2 of the augmentation parameters and by MRR, because the paper's formulas are unknown",
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
            "by the mean equivariant loss over all steps, because the paper's measure is unknown",
        ),
        Claim(
            "C10",
            "retrieval differs by expert: those of the invariant task find the same class",
            (Comparison(star, "", _SPECIALISED, at),),
            "of the experts that each task weighs most, by images of the same class among 8 neighbours",
        ),
    )
