"""Why the two embeddings of STAR share more than EquiMod's on CIFAR-10: one change at a time, by every statistic."""

from ... import recipes
from ...settings.base import override
from ..study import Images, Measure, Method, Place, Study

_SET = "cifar10"
_FLOAT = ("epochs=3", "precision=no", "run.eval_every=0", "run.checkpoint_every=1000", "run.keep=1")
_FULL = ("backbone_args={}",)  # timm's ResNet-10-T, 512 features instead of 256
# as many heads as `star_8` has experts
_SPLIT = ("objective_args.heads_inv=6", "objective_args.heads_eq=2")
_STATISTICS = ("cca", "svcca", "svcca_90", "explained_eq_by_inv", "explained_inv_by_eq", "cka", "top16")
_PLACES = ("", "drawn", "drawn_between", "drawn_within", "recalibrated", "drawn_recalibrated")
_SHOWN = tuple("_".join(filter(None, (slug, place))) for place in _PLACES for slug in _STATISTICS)
_RANKS = ("rankme_z_inv", "rankme_z_eq")
_KNN, _R2 = "knn20_top1", "r2_pair_features"


def why_correlated() -> Study:
    """Which difference of STAR and EquiMod makes z_inv and z_eq share more: three epochs of CIFAR-10 each.

    The views and the statistics are those of the protocol `redundancy`. Methods change one thing each: embeddings of
    32 and 64 dimensions, the full backbone, means of six and two separate heads, i.e. averaging without sharing, and
    the published predictor. `cifar10_small` has four times the steps. The verdict is in hub_cards/why_correlated.
    """
    narrow = (32, 64)
    return Study(
        name="why_correlated",
        recipe=override(recipes.find("cifar10_small"), _FLOAT),
        images=Images(_SET, "CIFAR10"),
        methods=(
            Method("equimod", "equimod", seeds=3),
            Method("star_8", "star", seeds=3),
            Method("split_6_2", "equimod", _SPLIT, seeds=3),
            Method("equimod_linear", "equimod", ("objective_args.predictor=linear",), seeds=3),
            *(Method(f"equimod_o{o}", "equimod", (f"objective_args.embed_dim={o}",)) for o in narrow),
            *(Method(f"star_8_o{o}", "star", (f"objective_args.embed_dim={o}",)) for o in narrow),
            Method("equimod_full", "equimod", _FULL),
            Method("star_8_full", "star", _FULL),
        ),
        measures=tuple(Measure(protocol, (_SET,)) for protocol in ("redundancy", "routing", "knn", "equivariance")),
        pairs=(
            ("star_8", "equimod"),
            ("split_6_2", "equimod"),
            ("star_8", "split_6_2"),
            ("equimod_linear", "equimod"),
            *((f"star_8_o{o}", f"equimod_o{o}") for o in narrow),
            ("star_8_full", "equimod_full"),
        ),
        headline=tuple(
            Place(slug, _SET)
            for slug in (
                "cca",
                "cca_floor",
                "svcca",
                "svcca_90",
                "svcca_90_drawn",
                "explained_eq_by_inv",
                *_RANKS,
                _KNN,
            )
        ),
        shown=(*_SHOWN, *_RANKS, "overlap", _KNN, _R2),
        fast=("epochs=1", "data.limit=6400"),
        fast_measures=(Measure("redundancy", (_SET,)),),
    )
